# SPDX-License-Identifier: Apache-2.0
"""The model table, and the names that paths stand for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

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


HUB = "/home/ana/.cache/huggingface/hub/models--BAAI--bge-en-icl"
REVISION = "5617a9f61b028005a4858fdac845db406aefb181"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (f"{HUB}/snapshots/{REVISION}", "bge-en-icl"),
        (f"{HUB}/snapshots/{REVISION}/", "bge-en-icl"),
        (f"{HUB}/snapshots/./{REVISION}/.", "bge-en-icl"),
        (f"{HUB}/snapshots/old/../{REVISION}", "bge-en-icl"),
        (f"{HUB}/snapshots/{REVISION}/onnx/..", "bge-en-icl"),
        (f"{HUB}/snapshots/{REVISION}/checkpoint-500", "bge-en-icl"),
        (f"models--BAAI--bge-en-icl/snapshots/{REVISION}", "bge-en-icl"),
        ("models--bert-base-uncased/snapshots/86b5e09", "bert-base-uncased"),
        ("models--Qwen--Qwen3-Embedding-0.6B/snapshots/main", "Qwen3-Embedding-0.6B"),
        (HUB, "bge-en-icl"),
        (f"{HUB}/snapshots/{REVISION}/tuned", "tuned"),
        ("/data/snapshots/5617", "5617"),
        ("/data/bge-m3/snapshots/5617", "5617"),
    ],
)
def test_a_snapshot_in_the_hubs_cache_goes_by_its_repositorys_name(given: str, name: str) -> None:
    assert checkpoint_name(given) == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("/home/ana/.cache/modelscope/hub/models/BAAI/bge-m3", "bge-m3"),
        ("/home/ana/.cache/modelscope/hub/BAAI/bge-large-zh-v1___5", "bge-large-zh-v1.5"),
        ("bge-large-zh-v1___5", "bge-large-zh-v1.5"),
        ("hub/Qwen/Qwen3-Embedding-0___6B/", "Qwen3-Embedding-0.6B"),
        ("hub/iic/gte-Qwen1___5-7B-instruct/checkpoint-500", "gte-Qwen1.5-7B-instruct"),
        ("hub/BAAI/bge___m3", "bge.m3"),
        ("bce-embedding-base_v1", "bce-embedding-base_v1"),
        ("my__model", "my__model"),
    ],
)
def test_modelscopes_three_underscores_are_a_dot(given: str, name: str) -> None:
    assert checkpoint_name(given) == name


@pytest.mark.parametrize("given", [r"C:\models\bge-m3", r"C:\models\bge-m3\checkpoint-500", r"models\bge-m3" + "\\"])
def test_windows_paths_have_parts_too(given: str) -> None:
    assert checkpoint_name(given) == "bge-m3"


def test_a_link_goes_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "store-0f3c").mkdir()
    (tmp_path / "bge-en-icl").symlink_to("store-0f3c")
    assert checkpoint_name(str(tmp_path / "bge-en-icl")) == "bge-en-icl"


def test_two_dots_behind_a_link_are_the_folder_above_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "bge-m3" / "onnx").mkdir(parents=True)
    (tmp_path / "link").symlink_to("bge-m3/onnx")
    assert checkpoint_name(str(tmp_path / "link" / "..")) == "bge-m3"


@pytest.mark.parametrize(
    ("given", "name"),
    [(".", "tuned"), ("./", "tuned"), ("..", "above"), ("../", "above"), ("../other", "other"), ("a/..", "tuned")],
)
def test_dots_are_folders_around_the_working_directory(
    given: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "above" / "tuned").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above" / "tuned")
    assert checkpoint_name(given) == name


def test_a_working_directory_that_was_entered_by_a_link_has_the_links_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store-0f3c").mkdir()
    (tmp_path / "bge-en-icl").symlink_to("store-0f3c")
    monkeypatch.chdir(tmp_path / "bge-en-icl")
    monkeypatch.setenv("PWD", str(tmp_path / "bge-en-icl"))
    assert checkpoint_name(".") == "bge-en-icl"
    monkeypatch.setenv("PWD", "/usr")  # left over from another directory
    assert checkpoint_name(".") == "store-0f3c"


def test_a_checkpoint_folder_in_the_working_directory_goes_by_that_ones_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tuned" / "checkpoint-500").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tuned")
    assert checkpoint_name("checkpoint-500") == checkpoint_name("./checkpoint-500/") == "tuned"
    assert checkpoint_name("checkpoint-501") == "checkpoint-501"  # there is none


@pytest.mark.parametrize(("given", "name"), [("~", "user"), ("~/", "user"), ("~/models/bge-m3", "bge-m3")])
def test_a_tilde_is_the_home_folder(given: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    assert checkpoint_name(given) == name


@pytest.mark.parametrize("given", ["", "/", "//"])
def test_what_has_no_part_has_no_name(given: str) -> None:
    assert checkpoint_name(given) == ""


@pytest.mark.parametrize("name", [*EMBEDDERS, *RERANKERS])
def test_a_published_name_stands_for_itself(name: str) -> None:
    assert checkpoint_name(name) == checkpoint_name(f"owner/{name}") == name


@pytest.mark.parametrize("given", [None, 5, ["bge-m3"]])
def test_a_name_that_is_no_str_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="expected the name of a deployment or checkpoint, or a path, as a str"):
        checkpoint_name(given)
