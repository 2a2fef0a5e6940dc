# SPDX-License-Identifier: Apache-2.0
"""The SDK against the real server: long lists, both wires, many threads, and what callers get wrong."""

from __future__ import annotations

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
from flagtriton_tools.serving import free_ports
from tests.checkpoints import TEXTS
from tests.conftest import Served

pytestmark = pytest.mark.server


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, served: Served) -> str:
    return served.grpc_url if request.param == "grpc" else served.http_url


def test_both_wires_give_the_same_vectors(served: Served) -> None:
    over = {url: FlagModel("bert-cls", url=url, use_fp16=False) for url in (served.grpc_url, served.http_url)}
    grpc, http = (model.encode(TEXTS) for model in over.values())
    assert np.array_equal(grpc, http)


def test_ten_thousand_texts_come_back_in_order(url: str) -> None:
    model = FlagModel("bert-cls", url=url, use_fp16=False)
    texts = [TEXTS[i % len(TEXTS)] for i in range(10_000)]
    few = model.encode(TEXTS)
    many = model.encode(texts)
    assert many.shape == (10_000, 48)
    assert np.abs(many - few[np.arange(10_000) % len(TEXTS)]).max() <= 1e-6


def test_one_object_serves_many_threads(url: str) -> None:
    model = FlagModel("bert-cls", url=url, use_fp16=False)
    expected = model.encode(TEXTS)
    with ThreadPoolExecutor(16) as pool:
        vectors = list(pool.map(model.encode, TEXTS * 12))
    assert np.abs(np.stack(vectors) - np.tile(expected, (12, 1))).max() <= 1e-6


def test_an_empty_list_gives_an_empty_array(url: str) -> None:
    assert FlagModel("bert-cls", url=url, use_fp16=False).encode([]).shape == (0, 48)


def test_the_factory_takes_an_unlisted_name_as_it_is_served(url: str) -> None:
    model = FlagAutoModel.from_finetuned("all-MiniLM-L6-v2", url=url)
    assert isinstance(model, FlagModel)
    assert model.pooling_method == "mean"
    cat, kitten, bond = model.encode(["a cat", "a kitten", "government bonds"])
    assert cat @ kitten > 0.7 > 0.3 > cat @ bond


def test_the_url_comes_from_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGTRITON_URL", served.http_url)
    assert FlagModel("bert-cls", use_fp16=False).encode("x").shape == (48,)


@pytest.mark.parametrize("max_length", [0, 1, -5, 10**9, 513, "abc"])
def test_a_max_length_out_of_range_is_refused(max_length: Any, url: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"max_length.*expected a whole number from 2 to 512"):
        FlagModel("bert-cls", url=url, use_fp16=False).encode("x", max_length=max_length)


def test_one_bad_option_fails_a_long_list_at_once(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="max_length"):
        FlagModel("bert-cls", url=url, use_fp16=False).encode(TEXTS * 100, batch_size=8, max_length=1)


def test_an_unknown_model_says_which_are_served(url: str) -> None:
    with pytest.raises(
        ModelNotServedError, match=r"'bge-m4' is not served.*all-MiniLM-L6-v2, bert-cls, bert-mean, left-last"
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
