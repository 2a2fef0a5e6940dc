# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.deploy.build`: what an encoder reranker's deployment consists of, and what it is refused for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from flagtriton.protocol.parameters import read_settings
from flagtriton.protocol.settings import EncoderSettings, RerankerHeadSettings, TokenizerSettings
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import CheckpointFacts, inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.errors import ToolError
from tests.support.checkpoints.tiny import make_bert, make_reranker


def facts(**known: Any) -> CheckpointFacts:
    given = {"task": "rerank", "model_class": "encoder-only-base", "max_length": 512, "model_type": "bert", "labels": 1}
    return CheckpointFacts("org/ranker", "ranker", "a test", **{**given, **known})


def models(**chosen: Any) -> dict[str, Model]:
    return {model.name: model for model in build(facts(), AddOptions(**chosen))}


def settings(cls: type, model: Model) -> Any:
    config = json_format.MessageToDict(model.config, preserving_proto_field_name=True)
    return read_settings(cls, {"model_config": json.dumps(config)})


def test_an_ensemble_and_three_steps_stand_for_it() -> None:
    found = models()
    assert {name: model.step for name, model in found.items()} == {
        "ranker": None,
        "ranker_tokenizer": "tokenizer",
        "ranker_encoder": "encoder",
        "ranker_scorer": "reranker_scorer",
    }


def test_a_pair_goes_in_and_a_score_comes_out() -> None:
    ensemble = models()["ranker"].config
    assert [each.name for each in ensemble.input] == ["query", "passage"]
    assert [(each.name, list(each.dims)) for each in ensemble.output] == [("score", [1]), ("token_count", [1])]


def test_every_step_is_told_what_it_needs() -> None:
    found = models(precision="fp32")
    assert settings(TokenizerSettings, found["ranker_tokenizer"]).joins_pairs is True
    encoder = settings(EncoderSettings, found["ranker_encoder"])
    assert (encoder.rows, encoder.token_types, encoder.pooling_method) == ("first", True, None)
    assert settings(RerankerHeadSettings, found["ranker_scorer"]) == RerankerHeadSettings("org/ranker", "fp32", "cpu")


def test_no_step_looks_like_a_deployment_of_its_own() -> None:
    # What the SDK takes for a public ensemble has these three parameters.
    keys = {"task", "model_class", "checkpoint"}
    public = [name for name, model in models().items() if keys <= set(model.config.parameters)]
    assert public == ["ranker"]


@pytest.mark.parametrize("model_class", ["encoder-only-base", "encoder-only-m3"])
def test_an_embedders_encoder_knows_no_pairs(model_class: str) -> None:
    of_an_embedder = build(facts(task="embed", model_class=model_class, hidden_size=8), AddOptions())
    encoder = next(model for model in of_an_embedder if model.step == "encoder")
    assert settings(EncoderSettings, encoder).token_types is False
    assert [each.name for each in encoder.config.input if not each.optional] == ["input_ids"]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"pool_in_encoder": True}, "--pool-in-encoder: ranker is a reranker"),
        ({"pooling_method": "mean"}, "--pooling: ranker is a reranker"),
        ({"query_instruction": ""}, "ranker is an encoder reranker, to which callers give instructions themselves"),
        ({"passage_instruction": "p"}, "ranker is an encoder reranker, to which callers give instructions themselves"),
        ({"colbert_dim": 8}, "--colbert-dim is 8, but ranker has no ColBERT vectors"),
        ({"peft": "maker/lora"}, "--peft: ranker is an encoder reranker"),
    ],
)
def test_an_option_that_a_reranker_has_not_is_refused(chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolError, match=said):
        models(**chosen)


def test_code_of_its_own_brings_its_head_into_the_encoder() -> None:
    built = models(trust_remote_code=True)
    assert settings(EncoderSettings, built["ranker_encoder"]).scores
    assert settings(RerankerHeadSettings, built["ranker_scorer"]).scored_in_encoder


@pytest.mark.parametrize(("model_type", "whole"), [("xlm-roberta", False), ("camembert", False), ("distilbert", True)])
def test_encoders_that_are_not_berts_kin_run_whole(model_type: str, whole: bool) -> None:
    built = {model.name: model for model in build(replace(facts(), model_type=model_type), AddOptions())}
    assert settings(EncoderSettings, built["ranker_encoder"]).scores is whole
    assert settings(RerankerHeadSettings, built["ranker_scorer"]).scored_in_encoder is whole


@pytest.mark.parametrize("name", ["jina-reranker-v2-base-multilingual", "gte-multilingual-reranker-base"])
def test_published_rerankers_with_code_of_their_own_ask_for_leave(name: str) -> None:
    with pytest.raises(ToolError, match="needs Python code that comes with it"):
        build(inspect_checkpoint(f"maker/{name}"), AddOptions())
    assert build(inspect_checkpoint(f"maker/{name}"), AddOptions(trust_remote_code=True))


def test_a_head_for_two_labels_is_refused_when_it_is_added(tmp_path: Path) -> None:
    found = inspect_checkpoint(str(make_reranker(tmp_path / "two", make_bert, labels=2)))
    with pytest.raises(ToolError, match="has a head for 2 labels; a reranker has one, which is its score"):
        build(found, AddOptions())


def test_a_checkpoint_with_a_classification_head_is_found_to_be_a_reranker(tmp_path: Path) -> None:
    found = inspect_checkpoint(str(make_reranker(tmp_path / "one", make_bert)))
    assert (found.task, found.model_class, found.labels) == ("rerank", "encoder-only-base", 1)


def test_published_rerankers_have_the_lengths_of_their_positions() -> None:
    lengths = {"bge-reranker-large": 512, "bge-reranker-v2-m3": 8192}
    assert {name: inspect_checkpoint(f"BAAI/{name}").max_length for name in lengths} == lengths
