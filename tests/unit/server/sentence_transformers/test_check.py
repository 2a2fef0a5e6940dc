# SPDX-License-Identifier: Apache-2.0
"""`sentence_transformers.check`: a deployment loads only if it serves what its checkpoint's files define now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.sentence_transformers.check import check_definition, unread
from flagtriton_tools.deploy.build import describe
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from tests.support.checkpoints.sentence_transformers import dense, make_sentence_transformer, write
from tests.support.checkpoints.tiny import make_bert
from tests.support.steps.fake_backend import imported_steps, started

REPO = "maker/new"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def checked(folder: Path | str, expected: str | None) -> None:
    check_definition(str(folder), None, expected, "tiny")


def expected_of(folder: Path, **options: Any) -> str | None:
    return describe(inspect_checkpoint(str(folder)), AddOptions(**options)).definition


@pytest.fixture
def labse(tmp_path: Path) -> Path:
    return make_sentence_transformer(tmp_path / "labse", make_bert, behind=[dense(48, 32), ("Normalize", {})])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a repository's only snapshot in an empty cache, from which no file is missing."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--maker--new"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return snapshot


def fill(snapshot: Path, **more: Any) -> None:
    """Put a checkpoint into the cache, whole."""
    made = make_sentence_transformer(snapshot / "made", make_bert, **more)
    for file in made.iterdir():
        file.rename(snapshot / file.name)
    (snapshot / ".gitattributes").touch()


def test_what_was_added_loads(labse: Path) -> None:
    checked(labse, expected_of(labse))


def test_files_that_have_changed_since_are_refused_with_the_command(labse: Path) -> None:
    expected = expected_of(labse)
    content = json.loads((labse / "modules.json").read_text(encoding="utf-8"))
    write(labse / "modules.json", content[:2])
    with pytest.raises(ValueError, match=r"say: mean pooling; not normalised\. tiny was added as") as raised:
        checked(labse, expected)
    assert f"flagtriton add {labse} --name tiny --repository REPOSITORY --force" in str(raised.value)


def test_a_deployment_that_knows_nothing_of_the_files_does_not_drop_a_module(labse: Path) -> None:
    with pytest.raises(ValueError, match=r"say: that Dense belong to it\. tiny was added with none of this known"):
        checked(labse, None)


def test_a_deployment_that_knows_nothing_of_the_files_loads_where_nothing_is_dropped(tmp_path: Path) -> None:
    checked(make_sentence_transformer(tmp_path / "plain", make_bert), None)
    checked(make_bert(tmp_path / "bert"), None)


def test_what_is_to_be_ignored_is(labse: Path) -> None:
    checked(labse, expected_of(labse, modules=False))


def test_the_encoder_checks_before_it_loads(labse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with imported_steps(monkeypatch, "encoder") as steps, pytest.raises(ValueError, match="Dense belong to it"):
        started(steps.encoder, EncoderSettings(str(labse), 512, token_budget=64, precision="fp32"))


def test_files_of_the_model_table_are_checked_for_what_would_be_dropped(tmp_path: Path) -> None:
    folder = make_sentence_transformer(tmp_path / "e5-base-v2", make_bert, transformer={"config_args": {"odd": 1}})
    checked(folder, expected_of(folder))


def test_a_hub_name_whose_files_nobody_could_read_is_refused_where_they_say_otherwise(hub: Path) -> None:
    assumed = describe(inspect_checkpoint(REPO), AddOptions(task="embed", model_class="encoder-only-base")).definition
    assert assumed == unread("cls")
    with pytest.raises(ValueError, match=r"nothing tells how maker/new pools\. Add it again where"):
        checked(REPO, assumed)
    fill(hub)
    with pytest.raises(ValueError, match=r"say: mean pooling; normalised\. tiny was added as"):
        checked(REPO, assumed)
    checked(REPO, unread("mean"))


def test_a_hub_name_is_added_with_what_the_cache_says(hub: Path) -> None:
    fill(hub, behind=[dense(48, 32)])
    found = describe(inspect_checkpoint(REPO), AddOptions())
    assert (found.task, found.model_class) == ("embed", "encoder-only-base")
    assert (found.pooling_method, found.modules, found.hidden_size) == ("mean", "Dense:2_Dense", 32)
    checked(REPO, found.definition)


def test_a_whole_snapshot_without_modules_is_one_that_has_none(hub: Path) -> None:
    (hub / ".gitattributes").touch()
    checked(REPO, unread("cls"))


def test_what_was_read_when_it_was_added_need_not_be_at_hand(hub: Path) -> None:
    checked(REPO, "mean pooling; normalised")
    checked(REPO, None)


@pytest.mark.parametrize("expected", [None, "mean pooling; normalised"])
def test_a_damaged_list_of_modules_is_not_passed_over(expected: str | None, labse: Path) -> None:
    (labse / "modules.json").write_text("[{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"say: modules\.json cannot be read as JSON"):
        checked(labse, expected)


def with_prompts(folder: Path, query: str, **more: Any) -> Path:
    told = {"prompts": {"query": query, "document": ""}, **more}
    return make_sentence_transformer(folder, make_bert, prompts=told)


def test_a_prompt_whose_text_has_changed_is_refused_with_the_text(tmp_path: Path) -> None:
    folder = with_prompts(tmp_path / "m", "query: ")
    expected = expected_of(folder)
    checked(folder, expected)
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": "find: "}})
    with pytest.raises(ValueError, match=r'; prompts query "find: "\. tiny was added as .* query "query: "'):
        checked(folder, expected)


def test_deployments_that_recorded_the_names_of_prompts_alone_still_load(tmp_path: Path) -> None:
    former = "mean pooling; normalised; prompts query"
    checked(with_prompts(tmp_path / "m", "query: "), former)
    with pytest.raises(ValueError, match="not normalised; 16 components; prompts query"):
        checked(with_prompts(tmp_path / "cut", "query: ", truncate_dim=16), former)
