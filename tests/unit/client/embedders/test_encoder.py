# SPDX-License-Identifier: Apache-2.0
"""FlagEmbedding's `FlagModel` and `FlagLLMModel`, where they differ from other embedders."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from flagtriton import FlagLLMModel, FlagModel
from tests.support.fake_models import NAME, embedder, fake_server


def parameters_of(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


def test_the_default_pooling_is_flagembeddings() -> None:
    assert FlagModel.DEFAULT_POOLING_METHOD == "cls"


def test_no_pooling_asked_shows_what_is_served() -> None:
    assert embedder(fake_server(pooling_method="mean"), pooling_method=None).pooling_method == "mean"


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["__init__", "encode_queries", "encode_corpus", "encode_single_device"])
def test_the_reference_has_the_same_signature(method: str) -> None:
    from FlagEmbedding import FlagModel as Reference

    assert parameters_of(getattr(FlagModel, method)) == parameters_of(getattr(Reference, method))


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_signature_of_encode() -> None:
    # AbsEmbedder names the two instruction arguments; FlagModel's own `encode` passes them on in its **kwargs.
    from FlagEmbedding.abc.inference import AbsEmbedder as Reference

    assert parameters_of(FlagModel.encode) == parameters_of(Reference.encode)


def llm(**arguments: Any) -> FlagLLMModel:
    fake = fake_server(model_class="decoder-only-base", pooling_method="last_token")
    return FlagLLMModel(NAME, transport=fake, use_fp16=False, **arguments)


def test_a_decoder_has_flagembeddings_default_format() -> None:
    assert llm().query_instruction_format == "Instruct: {}\nQuery: {}"


@pytest.mark.parametrize("pooling_method", ["cls", "mean", None])
def test_another_pooling_for_a_decoder_is_refused_as_in_flagembedding(pooling_method: str | None) -> None:
    with pytest.raises(ValueError, match=r"^Pooling method must be 'last_token' for LLM-based models\.$"):
        llm(pooling_method=pooling_method)


def test_last_token_pooling_may_be_named() -> None:
    assert llm(pooling_method="last_token").pooling_method == "last_token"


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["__init__", "encode_queries", "encode_corpus", "encode_single_device"])
def test_the_reference_has_the_same_signature_of_a_decoder(method: str) -> None:
    from FlagEmbedding import FlagLLMModel as Reference

    assert parameters_of(getattr(FlagLLMModel, method)) == parameters_of(getattr(Reference, method))
