# SPDX-License-Identifier: Apache-2.0
"""`protocol.architectures`: the table's rows, and what follows from a `config.json`."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from flagtriton.protocol.architectures import ARCHITECTURES, architecture_of, attention_path, position_capacity


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta", "modernbert", "mistral", "qwen3", "gemma2"])
def test_texts_go_through_a_packed_architecture_end_to_end(model_type: str) -> None:
    assert attention_path(model_type, trust_remote_code=False) == "packed"


@pytest.mark.parametrize("model_type", ["mpnet", "distilbert", "t5", "", None])
def test_texts_are_padded_for_any_other_architecture(model_type: str | None) -> None:
    assert attention_path(model_type, trust_remote_code=False) == "padded"


def test_texts_are_padded_for_code_that_comes_with_a_checkpoint() -> None:
    assert attention_path("bert", trust_remote_code=True) == "padded"


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_transformers_knows_every_architecture_of_the_table(model_type: str) -> None:
    assert model_type in CONFIG_MAPPING_NAMES


@pytest.mark.parametrize("row", ARCHITECTURES.values(), ids=str)
def test_rows_do_not_contradict_themselves(row: Any) -> None:
    assert not (row.encoder and row.decoder)
    assert row.packed or not (row.fused or row.separate_head or row.decoder)


def test_an_architecture_without_a_row_has_no_properties() -> None:
    assert architecture_of("t5") == architecture_of("t5").__class__("t5")
    assert not architecture_of(None).packed


CAPACITIES: list[tuple[dict[str, Any], int | None]] = [
    ({"model_type": "bert", "max_position_embeddings": 512}, 512),
    ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
    ({"model_type": "xlm-roberta", "max_position_embeddings": 8194}, 8192),
    ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
    ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}, 513),
    ({"model_type": "bert"}, None),
    ({"model_type": "bert", "max_position_embeddings": 0}, None),
    ({"model_type": "bert", "max_position_embeddings": "512"}, None),
]


@pytest.mark.parametrize(("config", "capacity"), CAPACITIES)
def test_positions_behind_the_padding_id_are_left_out_of_a_tables_capacity(
    config: dict[str, Any], capacity: int | None
) -> None:
    assert position_capacity(config) == capacity
