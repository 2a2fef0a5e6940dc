# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's outputs, in front of a fake server whose outputs can be read off a text's bytes."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from flagtriton import BGEM3FlagModel, DeploymentMismatchError, InvalidRequestError, M3Output
from flagtriton.transport.base import InferenceReply
from flagtriton.transport.fake import Request
from tests.support.fake_models import COLBERT_DIM, DIMENSION, METHODS, colbert, fake_m3, m3, sparse, vector

ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
NONE = dict.fromkeys(ALL, False)
KEYS = ["dense_vecs", "lexical_weights", "colbert_vecs"]
TENSORS = {
    "return_dense": ["dense_vecs"],
    "return_sparse": ["sparse_ids", "sparse_weights"],
    "return_colbert_vecs": ["colbert_vecs", "colbert_lengths"],
}
CORPUS = ["bb", "a", "dddd", "", "ccc"]


def asked_tensors(flags: dict[str, bool], **call: Any) -> list[str]:
    """Return which tensors an object with some flags asks for, in a call with others."""
    fake = fake_m3()
    m3(fake, **flags).encode("a", **call)
    return list(fake.requests[0].outputs)


# The three outputs.


@pytest.mark.parametrize("method", METHODS)
def test_a_str_gives_one_of_each_output(method: str) -> None:
    output = getattr(m3(fake_m3()), method)("aab", **ALL)
    # Three bytes, a = 97, b = 98, 97 + 97 + 98; twice a, once b; a vector for each byte and the end.
    assert output["dense_vecs"].tolist() == [3, 97, 98, 292]
    assert output["lexical_weights"] == {"97": 2, "98": 1}
    assert output["colbert_vecs"].tolist() == [[97, 0], [97, 1], [98, 2], [2, 3]]


@pytest.mark.parametrize("method", METHODS)
def test_a_list_of_one_gives_lists_of_one(method: str) -> None:
    output = getattr(m3(fake_m3()), method)(["aab"], **ALL)
    assert output["dense_vecs"].tolist() == [[3, 97, 98, 292]]
    assert output["lexical_weights"] == [{"97": 2, "98": 1}]
    assert [vectors.tolist() for vectors in output["colbert_vecs"]] == [[[97, 0], [97, 1], [98, 2], [2, 3]]]


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_list_gives_empty_outputs_and_keeps_the_width(method: str) -> None:
    output = getattr(m3(fake_m3()), method)([], **ALL)
    assert output["dense_vecs"].shape == (0, DIMENSION)
    assert (output["lexical_weights"], output["colbert_vecs"]) == ([], [])


@pytest.mark.parametrize("method", METHODS)
def test_an_output_is_a_dict_with_flagembeddings_keys(method: str) -> None:
    output = getattr(m3(fake_m3()), method)("a")
    assert (type(output), list(output)) == (M3Output, KEYS)


def test_the_dense_vectors_alone_are_the_default() -> None:
    output = m3(fake_m3()).encode(["a"])
    assert (output["lexical_weights"], output["colbert_vecs"]) == (None, None)


@pytest.mark.parametrize(("flag", "key"), zip(ALL, KEYS, strict=True))
def test_what_was_not_asked_for_is_none(flag: str, key: str) -> None:
    output = m3(fake_m3()).encode(["a"], **{**NONE, flag: True})
    assert [name for name in KEYS if output[name] is not None] == [key]


@pytest.mark.parametrize("max_batch_size", [2, 64])
def test_a_list_keeps_its_order(max_batch_size: int) -> None:
    output = m3(fake_m3(max_batch_size=max_batch_size)).encode(CORPUS, **ALL)
    assert output["dense_vecs"].tolist() == [vector(text) for text in CORPUS]
    assert output["lexical_weights"] == [sparse(text) for text in CORPUS]
    assert [vectors.tolist() for vectors in output["colbert_vecs"]] == [colbert(text) for text in CORPUS]


def test_padding_of_a_longer_neighbour_is_cut_off() -> None:
    output = m3(fake_m3()).encode(["a", "bcd"], **ALL)
    assert list(output["lexical_weights"][0]) == ["97"]
    assert [vectors.shape for vectors in output["colbert_vecs"]] == [(2, COLBERT_DIM), (4, COLBERT_DIM)]


@pytest.mark.parametrize("given", ["a", ["a", "bcd"]])
def test_half_precision_of_the_wire_becomes_single_precision(given: str | list[str]) -> None:
    vectors = m3(fake_m3()).encode(given, **ALL)["colbert_vecs"]
    assert {one.dtype for one in ([vectors] if isinstance(given, str) else vectors)} == {np.dtype(np.float32)}


def test_vectors_can_be_written_to() -> None:
    output = m3(fake_m3()).encode("a", **ALL)
    output["dense_vecs"] += 1
    output["colbert_vecs"] += 1
    assert (output["dense_vecs"].tolist(), output["colbert_vecs"].tolist()) == ([2, 98, 98, 98], [[98, 1], [3, 2]])


def test_reading_a_token_without_weight_gives_zero_as_in_flagembedding() -> None:
    assert m3(fake_m3()).encode("a", return_sparse=True)["lexical_weights"]["98"] == 0


def test_encode_multi_process_returns_what_encode_returns() -> None:
    pooled = m3(fake_m3()).encode_multi_process(["ab"], None, return_dense=False, return_sparse=True)
    assert pooled == {"dense_vecs": None, "lexical_weights": [sparse("ab")], "colbert_vecs": None}


# Which outputs are asked for.


@pytest.mark.parametrize("flag", ALL)
def test_the_object_says_which_tensors_are_asked_for(flag: str) -> None:
    assert asked_tensors({**NONE, flag: True}) == TENSORS[flag]


@pytest.mark.parametrize("flag", ALL)
def test_a_calls_true_adds_an_output(flag: str) -> None:
    other = next(name for name in ALL if name != flag)
    assert set(asked_tensors({**NONE, other: True}, **{flag: True})) == {*TENSORS[other], *TENSORS[flag]}


@pytest.mark.parametrize("flag", ALL)
def test_a_calls_false_drops_an_output(flag: str) -> None:
    assert set(asked_tensors(ALL, **{flag: False})) == {
        name for other, names in TENSORS.items() if other != flag for name in names
    }


def test_a_changed_flag_changes_the_next_call() -> None:
    model = m3(fake_m3())
    model.return_sparse = True
    assert model.encode("a")["lexical_weights"] == {"97": 1}


@pytest.mark.parametrize("flag", ALL)
def test_encode_single_device_has_choices_of_its_own(flag: str) -> None:
    # FlagEmbedding's defaults there: dense alone, whatever the object says.
    fake = fake_m3()
    m3(fake, **{**NONE, flag: True}).encode_single_device("a")
    assert list(fake.requests[0].outputs) == ["dense_vecs"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("flag", ALL)
def test_every_method_asks_for_what_its_call_chooses(method: str, flag: str) -> None:
    fake = fake_m3()
    getattr(m3(fake), method)("a", **{**NONE, flag: True})
    assert list(fake.requests[0].outputs) == TENSORS[flag]


@pytest.mark.parametrize("method", METHODS)
def test_no_output_chosen_is_refused_as_in_flagembedding(method: str) -> None:
    message = "^Must choose one or more from `return_colbert_vecs`, `return_sparse`, `return_dense` to set `True`!$"
    fake = fake_m3()
    with pytest.raises(ValueError, match=message):
        getattr(m3(fake), method)("a", return_dense=False)
    assert fake.requests == []


# What is accepted, refused and kept.


@pytest.mark.parametrize("wish", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_convert_to_numpy_is_accepted_and_changes_nothing(method: str, wish: bool) -> None:
    model = m3(fake_m3(), convert_to_numpy=wish)
    assert isinstance(getattr(model, method)("ab", convert_to_numpy=wish)["dense_vecs"], np.ndarray)


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_argument_of_a_call_is_refused(method: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        getattr(m3(fake_m3()), method)("a", foo=1)


def test_a_request_that_the_server_refuses_fails_the_call() -> None:
    def refuse(request: Request) -> InferenceReply:
        raise InvalidRequestError("option 'max_length' is 9999")

    with pytest.raises(InvalidRequestError, match="option 'max_length' is 9999"):
        m3(fake_m3(refuse)).encode("a", max_length=9999)


@pytest.mark.parametrize("colbert_dim", [-1, 0, COLBERT_DIM])
def test_the_served_width_of_colbert_vectors_is_accepted(colbert_dim: int) -> None:
    assert m3(fake_m3(), colbert_dim=colbert_dim).colbert_dim == colbert_dim


@pytest.mark.parametrize("asked", [1, 3])
def test_another_width_of_colbert_vectors_is_refused_and_the_connection_closed(asked: int) -> None:
    fake = fake_m3()
    message = f"colbert_dim={asked}, but bge-m3 is served with 2: pass that, or -1"
    with pytest.raises(DeploymentMismatchError, match=message):
        m3(fake, colbert_dim=asked)
    assert fake.closed


def test_a_deployment_of_unknown_width_is_accepted() -> None:
    assert m3(fake_m3(colbert_dim=None), colbert_dim=3).colbert_dim == 3


def test_another_class_of_deployment_is_refused() -> None:
    with pytest.raises(DeploymentMismatchError, match="encoder-only-base; this class expects embed encoder-only-m3"):
        m3(fake_m3(model_class="encoder-only-base"))


def test_no_pooling_asked_shows_what_is_served() -> None:
    assert m3(fake_m3(pooling_method="mean"), pooling_method=None).pooling_method == "mean"


def test_a_pickled_object_answers_as_before() -> None:
    model = m3(fake_m3(max_batch_size=1), **ALL)
    model.encode(["a", "bb"])
    model.compute_score(("a", "b"))
    copy = pickle.loads(pickle.dumps(model))
    assert copy.encode(["a", "bb"])["lexical_weights"] == [{"97": 1}, {"98": 2}]
    assert copy.compute_score(("a", "b")) == model.compute_score(("a", "b"))


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["__init__", "encode_queries", "encode_corpus", "encode_single_device"])
def test_the_reference_has_the_same_signature(method: str) -> None:
    from FlagEmbedding import BGEM3FlagModel as Reference

    ours, theirs = (
        [(one.name, one.kind, one.default) for one in inspect.signature(getattr(cls, method)).parameters.values()]
        for cls in (BGEM3FlagModel, Reference)
    )
    assert ours == theirs
