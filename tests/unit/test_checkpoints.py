# SPDX-License-Identifier: Apache-2.0
"""The model table, and the names that paths stand for."""

from __future__ import annotations

import dataclasses

import pytest

from flagtriton.checkpoints import (
    EMBEDDERS,
    RERANKERS,
    checkpoint_name,
    support_model_list,
    support_native_bge_model_list,
)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("bge-m3", "bge-m3"),
        ("BAAI/bge-m3", "bge-m3"),
        ("/models/BAAI/bge-m3", "bge-m3"),
        ("BAAI/bge-m3/", "bge-m3"),
        ("./bge-m3", "bge-m3"),
        ("BAAI/BGE-M3", "BGE-M3"),
    ],
)
def test_the_last_path_part_is_the_name(given: str, name: str) -> None:
    assert checkpoint_name(given) == name


@pytest.mark.parametrize("given", ["bge-m3/checkpoint-500", "/out/bge-m3/checkpoint-500", "out/bge-m3/checkpoint-500/"])
def test_a_checkpoint_folder_goes_by_its_parents_name(given: str) -> None:
    assert checkpoint_name(given) == "bge-m3"


@pytest.mark.parametrize("given", ["checkpoint-500", "/checkpoint-500", "./checkpoint-500"])
def test_a_checkpoint_folder_without_parent_goes_by_its_own_name(given: str) -> None:
    assert checkpoint_name(given) == "checkpoint-500"


def test_there_are_47_embedders() -> None:
    assert len(EMBEDDERS) == 47


def test_there_are_10_rerankers() -> None:
    assert len(RERANKERS) == 10


def test_the_support_list_names_every_embedder_in_the_tables_order() -> None:
    assert support_model_list() == list(EMBEDDERS)


def test_the_native_list_is_the_first_17_names() -> None:
    assert support_native_bge_model_list() == support_model_list()[:17]


def test_the_table_cannot_be_changed_through_the_support_list() -> None:
    support_model_list().clear()
    assert len(support_model_list()) == 47


def test_an_entry_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EMBEDDERS["bge-m3"].hidden_size = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "hidden_size", "max_length"),
    [
        ("bge-large-en-v1.5", 1024, 512),
        ("bge-base-en-v1.5", 768, 512),
        ("bge-small-en-v1.5", 384, 512),
        ("bge-small-zh-v1.5", 512, 512),
        ("bge-m3", 1024, 8192),
        ("bge-multilingual-gemma2", 3584, 8192),
        ("bge-en-icl", 4096, 32768),
    ],
)
def test_sizes_are_those_of_the_published_configuration(name: str, hidden_size: int, max_length: int) -> None:
    assert (EMBEDDERS[name].hidden_size, EMBEDDERS[name].max_length) == (hidden_size, max_length)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_embedders_in_the_same_order() -> None:
    from FlagEmbedding.inference.embedder.model_mapping import AUTO_EMBEDDER_MAPPING

    assert support_model_list() == list(AUTO_EMBEDDER_MAPPING)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_reference_has_the_same_entry_for(name: str) -> None:
    from FlagEmbedding.inference.embedder.model_mapping import AUTO_EMBEDDER_MAPPING, EMBEDDER_CLASS_MAPPING

    ours, theirs = EMBEDDERS[name], AUTO_EMBEDDER_MAPPING[name]
    class_names = {python_class: member.value for member, python_class in EMBEDDER_CLASS_MAPPING.items()}
    assert (
        ours.model_class.value,
        ours.pooling_method.value,
        ours.trust_remote_code,
        ours.query_instruction_format,
    ) == (
        class_names[theirs.model_class],
        theirs.pooling_method.value,
        theirs.trust_remote_code,
        theirs.query_instruction_format,
    )


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_native_list() -> None:
    from FlagEmbedding.inference.embedder import model_mapping

    assert support_native_bge_model_list() == list(model_mapping.support_native_bge_model_list())


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_rerankers() -> None:
    from FlagEmbedding.inference.reranker.model_mapping import AUTO_RERANKER_MAPPING, RERANKER_CLASS_MAPPING

    class_names = {python_class: member.value for member, python_class in RERANKER_CLASS_MAPPING.items()}
    expected = {
        name: (class_names[entry.model_class], entry.trust_remote_code) for name, entry in AUTO_RERANKER_MAPPING.items()
    }
    ours = {name: (entry.model_class.value, entry.trust_remote_code) for name, entry in RERANKERS.items()}
    assert list(ours.items()) == list(expected.items())
