# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.repository.store`: deployments of two ensembles, and what is part of another deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.deploy.pbtxt import EnsembleStep, ensemble_config
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import add_models, entries, model_names, remove_deployment
from tests.support.folders import facts, snapshot

STEPS = ("tokenizer", "encoder", "dense_sparse", "colbert", "scorer")
M3_FOLDERS = {"m3", "m3_score", *(f"m3_{step}" for step in STEPS)}


def m3(name: str = "m3", **options: str) -> list[Model]:
    return build(facts(model_class="encoder-only-m3"), AddOptions(name=name, **options))


def plain(name: str, **options: str) -> list[Model]:
    return build(facts(), AddOptions(name=name, **options))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository that holds `m3`, of two ensembles, between two deployments of one."""
    for models in (plain("a"), m3(), plain("z")):
        add_models(models, tmp_path / "repo")
    return tmp_path / "repo"


def part(repository: Path, name: str) -> dict[str, bytes | None]:
    """Return what a repository holds of one deployment, by the beginning of its names."""
    return {path: content for path, content in snapshot(repository).items() if path.startswith(name)}


def test_a_deployment_of_two_ensembles_is_listed_once(repository: Path) -> None:
    assert [entry.name for entry in entries(repository)] == ["a", "m3", "z"]


def test_a_listed_deployment_names_its_further_ensemble(repository: Path) -> None:
    assert [entry.ensembles for entry in entries(repository)] == [(), ("m3_score",), ()]


def test_the_steps_of_both_ensembles_are_listed_each_once(repository: Path) -> None:
    _, entry, _ = entries(repository)
    assert entry.steps == tuple(f"m3_{step}" for step in STEPS)


def test_a_deployments_folders_are_its_own_its_ensembles_and_its_steps(repository: Path) -> None:
    _, entry, _ = entries(repository)
    assert entry.folders[:2] == ("m3", "m3_score")
    assert set(entry.folders) == M3_FOLDERS


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_both_ensembles_has_its_code(repository: Path, step: str) -> None:
    code = (repository / f"m3_{step}" / "1" / "model.py").read_text("utf-8")
    assert f"from flagtriton_server.steps.{step} import TritonPythonModel" in code


def test_an_ensemble_of_nobodys_is_no_deployments(tmp_path: Path) -> None:
    # The deployment that it says it is part of is not there.
    step = EnsembleStep("other", {"in": "in"}, {"out": "out"})
    orphan = ensemble_config(inputs=[], outputs=[], max_batch_size=1, steps=[step], parameters={"part_of": "gone"})
    add_models([Model("orphan", orphan)], tmp_path / "repo")
    assert entries(tmp_path / "repo") == []


def test_removing_takes_both_ensembles_and_all_steps(repository: Path) -> None:
    assert set(remove_deployment("m3", repository)) == M3_FOLDERS
    assert not [name for name in model_names(repository) if name.startswith("m3")]


def test_removing_leaves_other_deployments_alone(repository: Path) -> None:
    before = {**part(repository, "a"), **part(repository, "z")}
    remove_deployment("m3", repository)
    assert snapshot(repository) == before


def test_a_further_ensemble_cannot_be_removed_by_itself(repository: Path) -> None:
    before = snapshot(repository)
    with pytest.raises(ToolError, match="has no deployment m3_score; it has a, m3, z"):
        remove_deployment("m3_score", repository)
    assert snapshot(repository) == before


def test_force_replaces_both_ensembles(repository: Path, tmp_path: Path) -> None:
    add_models(m3(precision="bf16"), repository, force=True)
    add_models(m3(precision="bf16"), tmp_path / "fresh")
    assert part(repository, "m3") == snapshot(tmp_path / "fresh")


def test_force_leaves_nothing_of_two_ensembles_where_one_takes_their_place(repository: Path, tmp_path: Path) -> None:
    add_models(plain("m3"), repository, force=True)
    add_models(plain("m3"), tmp_path / "fresh")
    assert part(repository, "m3") == snapshot(tmp_path / "fresh")


def test_two_ensembles_take_the_place_of_one(repository: Path, tmp_path: Path) -> None:
    add_models(m3("a"), repository, force=True)
    add_models(m3("a"), tmp_path / "fresh")
    assert part(repository, "a") == snapshot(tmp_path / "fresh")


def reader_of_a() -> list[Model]:
    """Return a deployment `b` whose ensemble runs the deployment `a` as one of its steps."""
    models = plain("b")
    models[0].config.ensemble_scheduling.step.add(model_name="a", model_version=-1)
    return models


def test_removing_leaves_a_deployment_that_another_one_runs(repository: Path) -> None:
    before = snapshot(repository)
    add_models(reader_of_a(), repository)
    assert "a" not in remove_deployment("b", repository)
    assert snapshot(repository) == before


def test_force_leaves_a_deployment_that_another_one_ran(repository: Path) -> None:
    before = part(repository, "a")
    add_models(reader_of_a(), repository)
    add_models(plain("b"), repository, force=True)
    assert part(repository, "a") == before


def test_the_name_of_a_further_ensemble_is_taken(tmp_path: Path) -> None:
    add_models(plain("m3_score"), tmp_path)
    with pytest.raises(ToolError, match="already has m3_score;"):
        add_models(m3(), tmp_path)


@pytest.mark.parametrize("name", ["m3_score", "m3_encoder", "m3_scorer"])
def test_force_does_not_replace_a_part_of_another_deployment(repository: Path, name: str) -> None:
    before = snapshot(repository.parent)
    with pytest.raises(ToolError, match=f"{name} is part of the deployment m3; pass another --name"):
        add_models(plain(name), repository, force=True)
    assert snapshot(repository.parent) == before


def test_force_does_not_make_a_further_ensemble_of_another_deployment(tmp_path: Path) -> None:
    add_models(plain("m3_score"), tmp_path / "repo")
    before = snapshot(tmp_path)
    with pytest.raises(ToolError, match="m3_score is part of the deployment m3_score; pass another --name"):
        add_models(m3(), tmp_path / "repo", force=True)
    assert snapshot(tmp_path) == before
