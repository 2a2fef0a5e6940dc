# SPDX-License-Identifier: Apache-2.0
"""The SDK against the real server: long lists, both wires, many threads, and what callers get wrong."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from flagtriton import (
    DeploymentMismatchError,
    FlagAutoModel,
    FlagModel,
    InvalidRequestError,
    ModelNotServedError,
    ServerUnavailableError,
)
from flagtriton_tools.tritonserver.options import free_ports
from tests.conftest import Served, obey_ctrl_c
from tests.support.checkpoints.tiny import TEXTS

pytestmark = pytest.mark.server


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, served: Served) -> str:
    return served.grpc_url if request.param == "grpc" else served.http_url


@pytest.fixture
def embedder(url: str) -> Iterator[FlagModel]:
    with FlagModel("bert-cls", url=url, use_fp16=False) as model:
        yield model


def test_both_wires_give_the_same_vectors(served: Served) -> None:
    vectors = []
    for url in (served.grpc_url, served.http_url):
        with FlagModel("bert-cls", url=url, use_fp16=False) as model:
            vectors.append(model.encode(TEXTS))
    assert np.array_equal(*vectors)


def test_ten_thousand_texts_come_back_in_order(embedder: FlagModel) -> None:
    texts = [TEXTS[i % len(TEXTS)] for i in range(10_000)]
    few = embedder.encode(TEXTS)
    many = embedder.encode(texts)
    assert many.shape == (10_000, 48)
    assert np.abs(many - few[np.arange(10_000) % len(TEXTS)]).max() <= 1e-6


def test_one_object_serves_many_threads(embedder: FlagModel) -> None:
    expected = embedder.encode(TEXTS)
    with ThreadPoolExecutor(16) as pool:
        vectors = list(pool.map(embedder.encode, TEXTS * 12))
    assert np.abs(np.stack(vectors) - np.tile(expected, (12, 1))).max() <= 1e-6


def test_an_empty_list_gives_an_empty_array(embedder: FlagModel) -> None:
    assert embedder.encode([]).shape == (0, 48)


def test_the_factory_takes_an_unlisted_name_as_it_is_served(url: str) -> None:
    with FlagAutoModel.from_finetuned("all-MiniLM-L6-v2", url=url) as model:
        assert isinstance(model, FlagModel)
        assert model.pooling_method == "mean"
        cat, kitten, bond = model.encode(["a cat", "a kitten", "government bonds"])
    assert cat @ kitten > 0.7 > 0.3 > cat @ bond


def test_the_url_comes_from_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGTRITON_URL", served.http_url)
    with FlagModel("bert-cls", use_fp16=False) as model:
        assert model.encode("x").shape == (48,)


@pytest.mark.parametrize("max_length", [0, 1, -5, 10**9, 513, "abc"])
def test_a_max_length_out_of_range_is_refused(max_length: Any, embedder: FlagModel) -> None:
    with pytest.raises(InvalidRequestError, match=r"max_length.*expected a whole number from 2 to 512"):
        embedder.encode("x", max_length=max_length)


def test_one_bad_option_fails_a_long_list_at_once(embedder: FlagModel) -> None:
    with pytest.raises(InvalidRequestError, match="max_length"):
        embedder.encode(TEXTS * 100, batch_size=8, max_length=1)


def test_an_unknown_model_says_which_are_served(url: str) -> None:
    with pytest.raises(
        ModelNotServedError, match=r"'bge-m4' is not served.*all-MiniLM-L6-v2, bert-cls, domains, icl, left-last"
    ):
        FlagModel("bge-m4", url=url)


def test_a_private_step_is_no_deployment(url: str) -> None:
    with pytest.raises(DeploymentMismatchError, match="name the public ensemble"):
        FlagModel("bert-cls_encoder", url=url)


def test_another_pooling_is_refused_with_the_way_out(url: str) -> None:
    with pytest.raises(DeploymentMismatchError, match=r"pooling_method='cls', not 'mean'.*--force --pooling mean"):
        FlagModel("bert-cls", pooling_method="mean", url=url)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_is_down_is_named(scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ServerUnavailableError, match=url):
        FlagModel("bert-cls", url=url, retries=1)


def test_a_copy_of_an_embedder_connects_anew(url: str) -> None:
    with FlagModel("bert-cls", url=url, use_fp16=False) as model:
        pickled = pickle.dumps(model)
    with pickle.loads(pickled) as copy:
        assert copy.encode("x").shape == (48,)


def test_an_embedder_that_is_never_closed_makes_no_noise_at_exit(url: str) -> None:
    # With torch imported before it, tritonclient's own clean-up would fail in the middle of the interpreter's.
    source = f"""
import torch
from flagtriton import FlagModel
model = FlagModel("bert-cls", url={url!r}, use_fp16=False)
print(model.encode(["a"] * 9, batch_size=2).shape)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("(9, 48)\n", "")


def test_a_number_that_no_wire_can_carry_is_refused(embedder: FlagModel) -> None:
    with pytest.raises(InvalidRequestError):
        embedder.encode("x", max_length=10**30)


def test_ctrl_c_ends_a_long_call_at_once(url: str) -> None:
    source = f"""
import signal, sys
from flagtriton import FlagModel
model = FlagModel("bert-cls", url={url!r}, use_fp16=False)
print("ready", flush=True)
model.encode(["the quick brown fox " * 100] * 100_000, show_progress=False)
"""
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=obey_ctrl_c
    ) as caller:
        try:
            assert caller.stdout is not None
            assert caller.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                caller.wait(1)  # it is at work
            caller.send_signal(signal.SIGINT)
            assert caller.wait(30) != 0
        finally:
            caller.kill()
