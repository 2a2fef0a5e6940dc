# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.repository.store`: deployments are added and removed whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.deploy.pbtxt import EnsembleStep, ensemble_config, to_pbtxt
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import add_models, entries, model_names, remove_deployment
from tests.support.folders import facts, fail_at_rename, snapshot
from tests.support.paths import ROOT

COMMITTED = ROOT / "model_repository"
FOLDERS = ["tiny", "tiny_encoder", "tiny_pooler", "tiny_tokenizer"]

FLAGSHIPS = (
    "BAAI/bge-large-en-v1.5",
    "BAAI/bge-m3",
    "BAAI/bge-multilingual-gemma2",
    "BAAI/bge-en-icl",
    "BAAI/bge-reranker-v2-m3",
    "BAAI/bge-reranker-v2-gemma",
    "BAAI/bge-reranker-v2-minicpm-layerwise",
    "BAAI/bge-reranker-v2.5-gemma2-lightweight",
)


def tiny(name: str = "tiny", **options: str) -> list[Model]:
    return build(facts(), AddOptions(name=name, **options))


def with_a_fourth_step() -> list[Model]:
    """Return the deployment `tiny` as some former version might have built it: with a step more than now."""
    models = tiny()
    models[0].config.ensemble_scheduling.step.add(model_name="tiny_former", model_version=-1)
    return [*models, Model("tiny_former", models[3].config, "pooler")]


def write_foreign(repository: Path, name: str, parameters: dict[str, str]) -> None:
    step = EnsembleStep("other", {"in": "in"}, {"out": "out"})
    config = ensemble_config(inputs=[], outputs=[], max_batch_size=1, steps=[step], parameters=parameters)
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(to_pbtxt(config), encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository that holds `tiny` with a fourth step, and a folder of somebody else's."""
    repository = tmp_path / "repo"
    add_models(with_a_fourth_step(), repository)
    write_foreign(repository, "foreign", {})
    return repository


def test_the_committed_repository_is_what_the_tool_writes(tmp_path: Path) -> None:
    for flagship in FLAGSHIPS:
        add_models(build(inspect_checkpoint(flagship), AddOptions()), tmp_path / "repo")
    # What Triton leaves beside a model.py that it has run is not committed.
    committed = {path: content for path, content in snapshot(COMMITTED).items() if "__pycache__" not in path}
    assert committed == snapshot(tmp_path / "repo")


def test_a_repository_is_made_where_there_is_none(tmp_path: Path) -> None:
    add_models(tiny(), tmp_path / "new" / "repo")
    assert model_names(tmp_path / "new" / "repo") == FOLDERS


def test_every_folder_has_a_configuration_and_a_version(tmp_path: Path) -> None:
    add_models(tiny(), tmp_path / "repo")
    files = [path for path, content in snapshot(tmp_path / "repo").items() if content is not None]
    assert files == [
        "tiny/1/parameters.json",
        "tiny/config.pbtxt",
        "tiny_encoder/1/model.py",
        "tiny_encoder/config.pbtxt",
        "tiny_pooler/1/model.py",
        "tiny_pooler/config.pbtxt",
        "tiny_tokenizer/1/model.py",
        "tiny_tokenizer/config.pbtxt",
    ]


@pytest.mark.parametrize("step", ["tokenizer", "encoder", "pooler"])
def test_a_steps_code_is_a_docstring_and_one_import(tmp_path: Path, step: str) -> None:
    add_models(tiny(), tmp_path / "repo")
    docstring, *code = (tmp_path / "repo" / f"tiny_{step}" / "1" / "model.py").read_text("utf-8").split("\n")
    assert docstring.startswith('"""')
    assert [line for line in code if line] == [
        "from flagtriton_server.backend.process_tuning import limit_openmp_spinning",
        "limit_openmp_spinning()",  # before torch, which loads OpenMP
        f"from flagtriton_server.steps.{step} import TritonPythonModel as TritonPythonModel",
    ]


def test_nothing_is_left_beside_the_repository(tmp_path: Path) -> None:
    add_models(tiny(), tmp_path / "repo")
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


def test_two_deployments_stand_side_by_side(tmp_path: Path) -> None:
    add_models(tiny("a"), tmp_path)
    add_models(tiny("b"), tmp_path)
    assert [entry.name for entry in entries(tmp_path)] == ["a", "b"]


def test_a_name_that_is_taken_is_refused_with_the_remedy(tmp_path: Path) -> None:
    add_models(tiny(), tmp_path)
    with pytest.raises(ToolError, match=r"already has tiny, .*--force, or pass another --name"):
        add_models(tiny(), tmp_path)


def test_a_refusal_changes_nothing(tmp_path: Path) -> None:
    add_models(tiny(), tmp_path / "repo")
    before = snapshot(tmp_path)
    with pytest.raises(ToolError):
        add_models(tiny(precision="bf16"), tmp_path / "repo")
    assert snapshot(tmp_path) == before


def test_the_name_of_a_step_is_taken_too(tmp_path: Path) -> None:
    (tmp_path / "tiny_encoder").mkdir()
    with pytest.raises(ToolError, match="already has tiny_encoder;"):
        add_models(tiny(), tmp_path)


def test_force_writes_what_a_fresh_repository_would_hold(tmp_path: Path) -> None:
    add_models(tiny(precision="fp32"), tmp_path / "repo")
    add_models(tiny(precision="bf16"), tmp_path / "repo", force=True)
    add_models(tiny(precision="bf16"), tmp_path / "fresh")
    assert snapshot(tmp_path / "repo") == snapshot(tmp_path / "fresh")


def test_force_drops_steps_that_the_deployment_no_longer_has(repository: Path) -> None:
    add_models(tiny(), repository, force=True)
    assert model_names(repository) == ["foreign", *FOLDERS]


def test_force_leaves_other_deployments_alone(repository: Path) -> None:
    add_models(tiny("other"), repository)
    before = {path: content for path, content in snapshot(repository).items() if path.startswith("other")}
    add_models(tiny(), repository, force=True)
    after = {path: content for path, content in snapshot(repository).items() if path.startswith("other")}
    assert after == before


@pytest.mark.parametrize("number", range(9))  # five folders out, four in
def test_a_failure_while_replacing_leaves_the_repository_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = snapshot(repository.parent)
    fail_at_rename(monkeypatch, number, OSError("no space"))
    with pytest.raises(ToolError, match=r"cannot write .*: no space"):
        add_models(tiny(precision="bf16"), repository, force=True)
    assert snapshot(repository.parent) == before


@pytest.mark.parametrize("number", range(4))
def test_a_failure_while_adding_leaves_the_repository_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = snapshot(repository.parent)
    fail_at_rename(monkeypatch, number, OSError("no space"))
    with pytest.raises(ToolError, match=r"cannot write .*: no space"):
        add_models(tiny("other"), repository)
    assert snapshot(repository.parent) == before


@pytest.mark.parametrize("number", range(9))
def test_an_interruption_while_replacing_leaves_the_repository_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = snapshot(repository.parent)
    fail_at_rename(monkeypatch, number, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        add_models(tiny(), repository, force=True)
    assert snapshot(repository.parent) == before


def test_a_failure_while_writing_leaves_the_repository_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(repository.parent)

    def no_space(*_: object, **__: object) -> int:
        raise OSError("no space")

    monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(ToolError, match="no space"):
        add_models(tiny(), repository, force=True)
    assert snapshot(repository.parent) == before


def test_a_failure_leaves_no_repository_where_there_was_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at_rename(monkeypatch, 2, OSError("no space"))
    with pytest.raises(ToolError, match="no space"):
        add_models(tiny(), tmp_path / "repo")
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "repo").touch()
    with pytest.raises(ToolError, match=r"cannot write .*repo"):
        add_models(tiny(), tmp_path / "repo")


def test_removing_takes_the_ensemble_and_all_its_steps(repository: Path) -> None:
    assert set(remove_deployment("tiny", repository)) == {*FOLDERS, "tiny_former"}
    assert model_names(repository) == ["foreign"]


def test_removing_leaves_nothing_beside_the_repository(repository: Path) -> None:
    remove_deployment("tiny", repository)
    assert [path.name for path in repository.parent.iterdir()] == ["repo"]


def test_removing_works_where_a_step_is_gone_already(repository: Path) -> None:
    for path in [repository / "tiny_former" / "1" / "model.py", repository / "tiny_former" / "config.pbtxt"]:
        path.unlink()
    (repository / "tiny_former" / "1").rmdir()
    (repository / "tiny_former").rmdir()
    remove_deployment("tiny", repository)
    assert model_names(repository) == ["foreign"]


def test_removing_what_is_not_there_says_what_is(repository: Path) -> None:
    with pytest.raises(ToolError, match="has no deployment gone; it has tiny"):
        remove_deployment("gone", repository)


@pytest.mark.parametrize("name", ["tiny_encoder", "foreign"])
def test_only_deployments_can_be_removed(repository: Path, name: str) -> None:
    before = snapshot(repository)
    with pytest.raises(ToolError, match=f"has no deployment {name}; it has tiny"):
        remove_deployment(name, repository)
    assert snapshot(repository) == before


@pytest.mark.parametrize("number", range(5))
def test_a_failure_while_removing_leaves_the_repository_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = snapshot(repository.parent)
    fail_at_rename(monkeypatch, number, OSError("busy"))
    with pytest.raises((ToolError, OSError), match="busy"):
        remove_deployment("tiny", repository)
    assert snapshot(repository.parent) == before


def test_a_repository_that_cannot_be_changed_is_the_users_to_mend(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_rename(monkeypatch, 0, PermissionError("not allowed"))
    with pytest.raises(ToolError, match=r"repo.*not allowed"):
        remove_deployment("tiny", repository)


def test_a_listed_deployment_says_what_it_serves(tmp_path: Path) -> None:
    add_models(build(facts(), AddOptions(max_batch_size=32)), tmp_path)
    (entry,) = entries(tmp_path)
    assert (entry.name, entry.deployment.checkpoint, entry.max_batch_size) == ("tiny", "maker/tiny", 32)
    assert entry.steps == ("tiny_tokenizer", "tiny_encoder", "tiny_pooler")


@pytest.mark.parametrize("parameters", [{}, {"threshold": "3"}, {"task": "embed", "model_class": "theirs"}])
def test_ensembles_of_others_are_not_listed(tmp_path: Path, parameters: dict[str, str]) -> None:
    write_foreign(tmp_path, "foreign", parameters)
    assert entries(tmp_path) == []


def test_an_empty_repository_has_no_deployment(tmp_path: Path) -> None:
    assert entries(tmp_path) == []


def test_listing_a_folder_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is no folder; `flagtriton add CHECKPOINT"):
        entries(tmp_path / "gone")


def test_a_configuration_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.pbtxt").write_text("[", encoding="utf-8")
    with pytest.raises(ToolError, match=r"broken/config\.pbtxt does not parse"):
        entries(tmp_path)


def test_all_models_are_named_steps_and_others_included(repository: Path) -> None:
    assert model_names(repository) == [
        "foreign",
        "tiny",
        "tiny_encoder",
        "tiny_former",
        "tiny_pooler",
        "tiny_tokenizer",
    ]
