# SPDX-License-Identifier: Apache-2.0
"""`protocol.model_classes`: one row a class of FlagEmbedding's, and what may not contradict it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

import flagtriton_server
from flagtriton.protocol.deployment import resolve_precision
from flagtriton.protocol.model_classes import (
    MODEL_CLASSES,
    EmbedderModelClass,
    ModelClass,
    RerankerModelClass,
    check_pooling,
    model_class_row,
)
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.rerank import RerankOptions

STEPS = Path(flagtriton_server.__file__).parent / "steps"
EVERY_ROW = pytest.mark.parametrize("row", MODEL_CLASSES.values(), ids=lambda row: f"{row.task} {row.name.value}")


def test_every_class_of_flagembedding_has_a_row() -> None:
    expected = [("embed", each.value) for each in EmbedderModelClass]
    assert list(MODEL_CLASSES) == [*expected, *(("rerank", each.value) for each in RerankerModelClass)]


def test_a_member_equals_its_value_so_that_names_from_files_find_it() -> None:
    assert EmbedderModelClass.DECODER_ONLY_ICL == "decoder-only-icl"
    assert model_class_row("embed", EmbedderModelClass.DECODER_ONLY_ICL) is MODEL_CLASSES["embed", "decoder-only-icl"]


def test_an_unknown_class_is_named_with_those_that_are_served() -> None:
    with pytest.raises(ValueError, match=r"^rerank encoder-only-m3 .*; it serves embed encoder-only-base, "):
        model_class_row("rerank", "encoder-only-m3")


@EVERY_ROW
def test_every_step_of_a_chain_is_a_module(row: ModelClass) -> None:
    assert row.steps[0] == "tokenizer"
    assert [step for step in row.steps if not (STEPS / f"{step}.py").is_file()] == []


@EVERY_ROW
def test_every_option_of_a_class_is_an_option_of_its_task(row: ModelClass) -> None:
    options = EmbedOptions if row.task == "embed" else RerankOptions
    assert set(row.options) <= {field.name for field in fields(options)}


@EVERY_ROW
def test_llm_rerankers_alone_have_a_prompt_and_instructions_and_embedders_alone_poolings(row: ModelClass) -> None:
    asked = (row.prompt, row.query_instruction, row.passage_instruction)
    assert all(each is not None for each in asked) == row.is_llm_reranker
    assert bool(row.poolings) == (row.task == "embed")
    for pooling in row.poolings:
        assert check_pooling(pooling) == [pooling]


@pytest.mark.parametrize(
    ("device", "decoder", "expected"),
    [("cuda", False, "fp16"), ("gpu:0", False, "fp16"), ("gpu:1", True, "bf16"), ("cuda:0", True, "bf16")],
)
def test_auto_on_a_gpu_is_fp16_and_bf16_for_decoders(device: str, decoder: bool, expected: str) -> None:
    assert resolve_precision("auto", device, decoder=decoder) == expected


def test_a_precision_with_a_name_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flagtriton.protocol.deployment.best_cpu_precision", lambda: "bf16")
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("auto", "cpu", decoder=True) == "bf16"
