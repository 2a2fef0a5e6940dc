# SPDX-License-Identifier: Apache-2.0
"""The enumerations that FlagEmbedding's arguments take."""

from __future__ import annotations

import enum

import pytest

from flagtriton.types import EmbedderModelClass, PoolingMethod, RerankerModelClass


def members(kind: type[enum.Enum]) -> list[tuple[str, object]]:
    return [(member.name, member.value) for member in kind]


def test_a_member_equals_its_value() -> None:
    assert EmbedderModelClass.DECODER_ONLY_PSEUDO_MOE == "decoder-only-pseudo_moe"


def test_a_member_is_found_by_its_value() -> None:
    assert PoolingMethod("last_token") is PoolingMethod.LAST_TOKEN


def test_another_class_name_is_refused_as_in_flagembedding() -> None:
    with pytest.raises(ValueError, match="'nope' is not a valid EmbedderModelClass"):
        EmbedderModelClass("nope")


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_embedder_classes() -> None:
    from FlagEmbedding import EmbedderModelClass as Reference

    assert members(EmbedderModelClass) == members(Reference)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_reranker_classes() -> None:
    from FlagEmbedding import RerankerModelClass as Reference

    assert members(RerankerModelClass) == members(Reference)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_pooling_methods() -> None:
    from FlagEmbedding.inference.embedder.model_mapping import PoolingMethod as Reference

    assert set(members(PoolingMethod)) == set(members(Reference))
