# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.positions`: how many tokens a position table holds."""

from __future__ import annotations

import pytest

from flagtriton_server.positions import position_capacity


def test_bert_has_a_token_for_each_row_of_its_table() -> None:
    assert position_capacity({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}) == 512


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"])
def test_robertas_family_starts_behind_the_padding_id(model_type: str) -> None:
    # pad id 1: rows 0 and 1 are never used, and 514 - 2 = 512
    assert position_capacity({"model_type": model_type, "max_position_embeddings": 514, "pad_token_id": 1}) == 512


def test_the_padding_id_decides_how_many_rows_are_lost() -> None:
    # pad id 0: only row 0 is never used
    assert position_capacity({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}) == 513


@pytest.mark.parametrize("config", [{}, {"pad_token_id": None}])
def test_a_padding_id_that_is_not_given_is_one(config: dict[str, None]) -> None:
    assert position_capacity({"model_type": "xlm-roberta", "max_position_embeddings": 514, **config}) == 512


@pytest.mark.parametrize("rows", [None, -1, 0, "512"])
def test_a_table_without_a_size_sets_no_limit(rows: object) -> None:
    assert position_capacity({"model_type": "bert", "max_position_embeddings": rows}) is None


def test_a_configuration_that_names_no_table_sets_no_limit() -> None:
    assert position_capacity({"model_type": "t5"}) is None
