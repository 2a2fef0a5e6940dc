# SPDX-License-Identifier: Apache-2.0
"""Bad input over the raw protocol: the request at fault fails alone, with a code and a sentence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from tests.conftest import Served

pytestmark = pytest.mark.server

MODEL = "bert-cls"
GOOD = "the quick brown fox"


@dataclass
class Requests:
    """Sends requests without waiting for their answers, and collects these."""

    client: triton.InferenceServerClient
    answers: dict[int, Any] = field(default_factory=dict)
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    _sent: int = 0

    def send(self, texts: list[bytes], model: str = MODEL, **options: Any) -> int:
        """Send one request; return its number."""
        tensor = triton.InferInput("text", [len(texts), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text] for text in texts], dtype=np.object_))
        return self.send_tensors([tensor], model, **options)

    def send_tensors(
        self, tensors: list[triton.InferInput], model: str = MODEL, output: str = "dense_vecs", **options: Any
    ) -> int:
        """Send one request of any tensors; return its number."""
        number = self._sent
        self._sent += 1
        self.client.async_infer(
            model,
            tensors,
            lambda result, error: self._arrive(number, error or result.as_numpy(output)),
            outputs=[triton.InferRequestedOutput(output)],
            parameters=options,
        )
        return number

    def wait(self) -> dict[int, Any]:
        """Return all answers: an array, or the error that came."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.answers) == self._sent, timeout=120)
        return self.answers

    def _arrive(self, number: int, answer: Any) -> None:
        with self._arrived:
            self.answers[number] = answer
            self._arrived.notify_all()


@pytest.fixture
def requests(served: Served) -> Iterator[Requests]:
    with triton.InferenceServerClient(served.grpc_url.split("//")[1]) as client:
        yield Requests(client)


@pytest.fixture(scope="module")
def good_vector(served: Served) -> np.ndarray:
    with triton.InferenceServerClient(served.grpc_url.split("//")[1]) as client:
        requests = Requests(client)
        requests.send([GOOD.encode()])
        return requests.wait()[0][0]


BAD = {
    "invalid UTF-8": ([b"abc\xff"], {}, "text 0 is not valid UTF-8: byte 0xff at position 3"),
    "second text invalid": ([b"fine", b"\xc3("], {}, "text 1 is not valid UTF-8: byte 0xc3 at position 0"),
    "max_length 0": ([b"x"], {"max_length": 0}, "option 'max_length' is 0; expected a whole number from 2 to 512"),
    "max_length 1": ([b"x"], {"max_length": 1}, "option 'max_length' is 1; expected a whole number from 2 to 512"),
    "max_length -5": ([b"x"], {"max_length": -5}, "option 'max_length' is -5; expected"),
    "max_length 10**9": ([b"x"], {"max_length": 10**9}, "option 'max_length' is 1000000000; expected"),
    "max_length abc": ([b"x"], {"max_length": "abc"}, "option 'max_length' is 'abc'; expected"),
    "max_length true": ([b"x"], {"max_length": True}, "option 'max_length' is True; expected"),
    "unknown option": ([b"x"], {"max_lenght": 5}, "unknown option 'max_lenght'; this model has"),
    "normalize 1": ([b"x"], {"normalize": 1}, "option 'normalize' is 1; expected true or false"),
    "truncate_dim 0": ([b"x"], {"truncate_dim": 0}, "option 'truncate_dim' is 0; expected"),
    "input_type": ([b"x"], {"input_type": "doc"}, "option 'input_type' is 'doc'; expected one of 'query', 'passage'"),
    "instruction alone": ([b"x"], {"instruction": "find"}, "option 'instruction' came without 'input_type'"),
    "truncate": ([b"x"], {"truncate": "MIDDLE"}, "option 'truncate' is 'MIDDLE'; expected one of 'END', 'NONE'"),
    "too long": (
        [b"x", b"fox " * 600],
        {"truncate": "NONE"},
        "text 1 has more than 512 tokens and truncate=NONE",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_fails_alone_and_its_neighbours_are_answered(
    case: str, requests: Requests, good_vector: np.ndarray
) -> None:
    texts, options, sentence = BAD[case]
    requests.send([b"fox " * 100_000])  # keeps the tokenizer busy, so that the next ones wait and share its next turn
    good = [requests.send([GOOD.encode()])]
    bad = requests.send(texts, **options)
    good += [requests.send([GOOD.encode()]) for _ in range(3)]
    answers = requests.wait()
    assert answers[bad].status() == "StatusCode.INVALID_ARGUMENT"
    assert sentence in answers[bad].message()
    for number in good:
        assert np.allclose(answers[number][0], good_vector, atol=1e-6)


@pytest.mark.parametrize("text", [b"", b"a\x00b", b"\x00", b"fox " * 262_144], ids=["empty", "nul", "only nul", "1 MB"])
def test_odd_but_valid_text_is_served(text: bytes, requests: Requests) -> None:
    requests.send([text])
    vector = requests.wait()[0][0]
    assert vector.shape == (48,)
    assert abs(np.linalg.norm(vector) - 1) < 1e-5


def test_truncate_none_serves_what_fits(requests: Requests, good_vector: np.ndarray) -> None:
    requests.send([GOOD.encode()], truncate="NONE")
    assert np.allclose(requests.wait()[0][0], good_vector, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "datatype", "values"),
    [
        ([1, 1], "INT32", np.array([[1]], np.int32)),
        ([1, 2], "BYTES", np.array([[b"a", b"b"]], np.object_)),
        ([1], "BYTES", np.array([b"a"], np.object_)),
        ([0, 1], "BYTES", np.empty((0, 1), np.object_)),
        ([257, 1], "BYTES", np.full((257, 1), b"a", np.object_)),
    ],
    ids=["wrong dtype", "two columns", "no batch dimension", "no row", "too many rows"],
)
def test_wrong_tensors_are_refused_and_their_neighbours_answered(
    shape: list[int], datatype: str, values: np.ndarray, requests: Requests, good_vector: np.ndarray
) -> None:
    tensor = triton.InferInput("text", shape, datatype)
    tensor.set_data_from_numpy(values)
    good = requests.send([GOOD.encode()])
    bad = requests.send_tensors([tensor])
    answers = requests.wait()
    assert answers[bad].status() == "StatusCode.INVALID_ARGUMENT"
    assert np.allclose(answers[good][0], good_vector, atol=1e-6)


def test_an_unknown_model_is_not_found(requests: Requests) -> None:
    requests.send([b"x"], model="bert-clss")
    assert requests.wait()[0].status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([[2, 999_999, 3]], "input_ids runs from 2 to 999999; expected 0 to"),
        ([[2, -7, 3]], "input_ids runs from -7 to 3; expected 0 to"),
        ([[2, -1, 3]], "input_ids has -1 between tokens"),
        ([[2] * 600], "input_ids has 600 tokens a row; this model takes 512"),
    ],
    ids=["beyond the vocabulary", "negative", "with a gap", "too long"],
)
def test_the_encoder_step_refuses_bad_ids(ids: list[list[int]], sentence: str, requests: Requests) -> None:
    encoder = {"model": f"{MODEL}_encoder", "output": "hidden_states"}
    good = [requests.send_tensors([numbers("input_ids", [[2, 7, 3]])], **encoder) for _ in range(2)]
    bad = requests.send_tensors([numbers("input_ids", ids)], **encoder)
    answers = requests.wait()
    assert answers[bad].status() == "StatusCode.INVALID_ARGUMENT"
    assert sentence in answers[bad].message()
    for number in good:
        assert answers[number].shape == (1, 1, 48 * 4)  # cls reads one row, of 48 float32


def test_the_encoder_step_sends_all_rows_to_a_pooler_that_reads_them_all(requests: Requests) -> None:
    requests.send_tensors([numbers("input_ids", [[2, 7, 3]])], "xlmr-mean_encoder", "hidden_states")
    states = requests.wait()[0]
    assert (states.shape, states.dtype) == ((1, 3, 48 * 4), np.uint8)


@pytest.mark.parametrize(
    ("model", "shape", "sentence"),
    [
        ("xlmr-mean", (1, 2, 192), "hidden_states is [1, 2, 192] bytes for 3 rows of 1 texts; expected [B, R, 4 * D]"),
        ("xlmr-mean", (1, 0, 192), "hidden_states is [1, 0, 192] bytes for 3 rows of 1 texts; expected [B, R, 4 * D]"),
        ("bert-cls", (1, 0, 192), "hidden_states is [1, 0, 192] bytes for 1 rows of 1 texts; expected [B, R, 4 * D]"),
        ("bert-cls", (1, 1, 190), "hidden_states is [1, 1, 190] bytes for 1 rows of 1 texts; expected [B, R, 4 * D]"),
    ],
    ids=["too few rows", "no row", "no row of the one it reads", "half a number"],
)
def test_the_pooler_step_refuses_tensors_that_do_not_match(
    model: str, shape: tuple[int, ...], sentence: str, requests: Requests
) -> None:
    fitting = numbers("input_ids", [[2, 7, 3]])
    good = requests.send_tensors([fitting, numbers("hidden_states", np.ones((1, 3, 192), np.uint8))], f"{model}_pooler")
    bad = requests.send_tensors([fitting, numbers("hidden_states", np.ones(shape, np.uint8))], f"{model}_pooler")
    answers = requests.wait()
    assert answers[bad].status() == "StatusCode.INVALID_ARGUMENT"
    assert sentence in answers[bad].message()
    assert answers[good].shape == (1, 48)


def test_the_pooler_step_refuses_numbers_where_it_takes_bytes(requests: Requests) -> None:
    floats = numbers("hidden_states", np.ones((1, 3, 48), np.float32))
    requests.send_tensors([numbers("input_ids", [[2, 7, 3]]), floats], "xlmr-mean_pooler")
    answer = requests.wait()[0]
    assert answer.status() == "StatusCode.INVALID_ARGUMENT"
    assert "data-type is 'FP32', but model 'xlmr-mean_pooler' expects 'UINT8'" in answer.message()


def numbers(name: str, values: Any) -> triton.InferInput:
    array = np.asarray(values) if isinstance(values, np.ndarray) else np.array(values, np.int32)
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor
