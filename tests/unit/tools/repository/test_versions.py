# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.repository.versions`: several checkpoints of one deployment, of which one answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagtriton.protocol.parameters import read_settings
from flagtriton.protocol.settings import EncoderSettings, TokenizerSettings
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.deploy.pbtxt import read_config, to_pbtxt
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.bytecode import compile_steps
from flagtriton_tools.repository.store import add_models, entry_named
from flagtriton_tools.repository.versions import add_version, remove_version, switch_version
from tests.support.folders import facts, fail_at_rename, snapshot

STEPS = ["tiny_encoder", "tiny_pooler", "tiny_tokenizer"]


def models(checkpoint: str = "of-may", model_class: str = "encoder-only-base", **options: Any) -> list[Model]:
    return build(facts(source=checkpoint, model_class=model_class), AddOptions(name="tiny", **options))


def m3(checkpoint: str, **options: Any) -> list[Model]:
    return models(checkpoint, "encoder-only-m3", **options)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with versions 1 and 2 of `tiny`, the second of which answers."""
    add_models(models("of-may"), tmp_path / "repo")
    add_version(models("of-june", max_length=300), tmp_path / "repo", 2)
    return tmp_path / "repo"


def parameter(repository: Path, folder: str, name: str) -> str:
    return read_config(repository / folder / "config.pbtxt").parameters[name].string_value


def pinned(repository: Path, ensemble: str = "tiny") -> tuple[list[int], set[int]]:
    """Return which versions of an ensemble are served, and of its steps, which it calls."""
    config = read_config(repository / ensemble / "config.pbtxt")
    return list(config.version_policy.specific.versions), {s.model_version for s in config.ensemble_scheduling.step}


def told(repository: Path, step: str, version: str) -> dict[str, str]:
    """Return what Triton tells a version of a step."""
    parameters = read_config(repository / step / "config.pbtxt").parameters
    config = {"parameters": {name: {"string_value": value.string_value} for name, value in parameters.items()}}
    return {
        "model_config": json.dumps(config),
        "model_repository": str(repository / step),
        "model_version": version,
    }


def test_the_newest_version_answers_with_steps_of_its_own(repository: Path) -> None:
    entry = entry_named("tiny", repository)
    assert (entry.version, entry.versions) == (2, (1, 2))
    assert (entry.deployment.checkpoint, entry.deployment.max_length) == ("of-june", 300)
    assert pinned(repository) == ([2], {2})


def test_each_version_of_a_step_has_its_own_checkpoint(repository: Path) -> None:
    for version, checkpoint, length in (("1", "of-may", 512), ("2", "of-june", 300)):
        tokenizer = read_settings(TokenizerSettings, told(repository, "tiny_tokenizer", version))
        encoder = read_settings(EncoderSettings, told(repository, "tiny_encoder", version))
        assert (tokenizer.checkpoint, tokenizer.max_length) == (checkpoint, length)
        assert (encoder.checkpoint, encoder.max_length) == (checkpoint, length)


@pytest.mark.parametrize("step", STEPS)
def test_a_further_version_leaves_everything_of_the_steps_as_it_was(
    repository: Path, tmp_path: Path, step: str
) -> None:
    """Triton starts every version anew whose folder has changed, or whose configuration."""
    add_models(models("of-may"), tmp_path / "alone")
    before, after = snapshot(tmp_path / "alone" / step), snapshot(repository / step)
    assert {path: content for path, content in after.items() if not path.startswith("2")} == before
    assert read_config(repository / step / "config.pbtxt").version_policy.WhichOneof("policy_choice") == "all"


def test_a_deployment_may_begin_with_any_version(tmp_path: Path) -> None:
    add_version(models(), tmp_path / "repo", 7)
    assert entry_named("tiny", tmp_path / "repo").versions == (7,)
    assert pinned(tmp_path / "repo") == ([7], {7})


def test_another_version_can_be_switched_to_and_back(repository: Path) -> None:
    before = snapshot(repository)
    assert switch_version("tiny", 1, repository) == 2
    assert pinned(repository) == ([1], {1})
    assert parameter(repository, "tiny", "checkpoint") == "of-may"
    assert switch_version("tiny", 2, repository) == 1
    assert snapshot(repository) == before


def test_a_switch_touches_no_step(repository: Path) -> None:
    before = {step: snapshot(repository / step) for step in STEPS}
    switch_version("tiny", 1, repository)
    assert {step: snapshot(repository / step) for step in STEPS} == before


def test_all_ensembles_of_a_deployment_are_switched_together(tmp_path: Path) -> None:
    add_models(m3("of-may"), tmp_path / "repo")
    add_version(m3("of-june"), tmp_path / "repo", 2)
    for version in (2, 1):
        switch_version("tiny", version, tmp_path / "repo")
        assert pinned(tmp_path / "repo") == pinned(tmp_path / "repo", "tiny_score") == ([version], {version})
    assert parameter(tmp_path / "repo", "tiny_score", "part_of") == "tiny"


def test_a_version_that_does_not_answer_can_be_removed(repository: Path) -> None:
    remove_version("tiny", 1, repository)
    assert entry_named("tiny", repository).versions == (2,)
    assert not list(repository.glob("*/1"))
    assert len(list(repository.glob("*/2"))) == 4


def test_the_version_that_answers_cannot_be_removed(repository: Path) -> None:
    with pytest.raises(ToolError, match=r"version 2 of tiny is the one that answers; `flagtriton switch tiny VERSION`"):
        remove_version("tiny", 2, repository)


@pytest.mark.parametrize("change", [switch_version, remove_version])
def test_a_version_that_is_not_there_is_refused_with_those_that_are(repository: Path, change: Any) -> None:
    with pytest.raises(ToolError, match="tiny has no version 3; it has 1, 2"):
        change("tiny", 3, repository)


def test_a_version_that_is_there_is_replaced_only_by_force(repository: Path) -> None:
    switch_version("tiny", 1, repository)
    with pytest.raises(ToolError, match="already has version 2 of tiny; replace it with --force"):
        add_version(models("of-july"), repository, 2)
    add_version(models("of-july"), repository, 2, force=True)
    assert entry_named("tiny", repository).versions == (1, 2)
    assert parameter(repository, "tiny", "checkpoint") == "of-july"
    encoder = read_settings(EncoderSettings, told(repository, "tiny_encoder", "2"))
    assert encoder.checkpoint == "of-july"


@pytest.mark.parametrize("force", [False, True])
def test_the_version_that_answers_is_not_replaced(repository: Path, force: bool) -> None:
    """A server would exchange its steps one by one, and some requests would go through old and new ones."""
    with pytest.raises(ToolError, match=r"version 2 of tiny is the one that answers, .* add another number, such as 3"):
        add_version(models("of-july"), repository, 2, force=force)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_batch_size": 7}, "max_batch_size of tiny would not be the same for all versions; versions share theirs"),
        ({"instances": 2}, "instance_group of tiny_encoder would not be the same"),
        ({"pool_in_encoder": True}, "this version would consist of tiny, tiny_tokenizer, tiny_encoder, tiny consists"),
    ],
)
def test_a_version_that_needs_another_configuration_is_refused_whole(
    repository: Path, options: dict[str, Any], said: str
) -> None:
    before = snapshot(repository.parent)
    with pytest.raises(ToolError, match=said):
        add_version(models("of-july", **options), repository, 3)
    assert snapshot(repository.parent) == before


def test_colbert_vectors_of_another_dtype_are_the_same_configuration(tmp_path: Path) -> None:
    add_models(m3("of-may"), tmp_path / "repo")
    add_version(m3("of-june", colbert_dtype="fp16"), tmp_path / "repo", 2)  # each request says in which they travel
    assert entry_named("tiny", tmp_path / "repo").deployment.colbert_dtype == "fp16"


def test_other_outputs_are_another_configuration(tmp_path: Path) -> None:
    add_models(m3("of-may"), tmp_path / "repo")
    other = m3("of-june")
    other[0].config.output[0].name = "vectors"
    with pytest.raises(ToolError, match="output of tiny would not be the same for all versions"):
        add_version(other, tmp_path / "repo", 2)


@pytest.mark.parametrize("change", [lambda r: switch_version("tiny", 1, r), lambda r: add_version(models(), r, 3)])
def test_a_setting_that_only_a_newer_triton_knows_is_not_lost(repository: Path, change: Any) -> None:
    config = repository / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace("ensemble_scheduling {", "ensemble_scheduling { of_next_year: 7"))
    before = snapshot(repository)
    with pytest.raises(ToolError, match=r"config.pbtxt does not parse: .*of_next_year"):
        change(repository)
    assert snapshot(repository) == before


def test_a_deployment_without_parameters_of_its_versions_says_so(repository: Path) -> None:
    (repository / "tiny" / "1" / "parameters.json").unlink()
    before = snapshot(repository)
    with pytest.raises(ToolError, match=r"tiny/1/parameters.json cannot be read: .*; add the version again"):
        switch_version("tiny", 1, repository)
    assert snapshot(repository) == before


@pytest.mark.parametrize("number", range(6))
def test_what_fails_half_way_leaves_everything_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = snapshot(repository.parent)
    fail_at_rename(monkeypatch, number, OSError("the disk is gone"))
    with pytest.raises(ToolError, match=r"cannot write .*: the disk is gone"):
        add_version(models("of-july"), repository, 3)
    assert snapshot(repository.parent) == before


def test_a_repository_of_before_versions_is_replaced_once(tmp_path: Path) -> None:
    old = models("of-may")
    for model in old:
        model.config.ClearField("version_policy")
        for step in model.config.ensemble_scheduling.step:
            step.model_version = -1
    add_models(old, tmp_path / "repo")
    for model in old:
        (tmp_path / "repo" / model.name / "config.pbtxt").write_text(to_pbtxt(model.config))
    assert entry_named("tiny", tmp_path / "repo").version == 1
    with pytest.raises(ToolError, match="tiny was added before there were versions; add it once more with --force"):
        add_version(models("of-june"), tmp_path / "repo", 2)


def test_where_a_server_has_run_a_further_version_has_its_bytecode_too(repository: Path) -> None:
    assert not list(repository.glob("*/*/__pycache__"))
    compile_steps(repository / step for step in STEPS)
    assert len(list(repository.glob("*/*/__pycache__/model.*.pyc"))) == 6
    before = {version: snapshot(repository / "tiny_encoder" / version) for version in "12"}
    add_version(models("of-july"), repository, 3)
    assert len(list(repository.glob("*/3/__pycache__/model.*.pyc"))) == 3
    assert {version: snapshot(repository / "tiny_encoder" / version) for version in "12"} == before


def test_where_a_server_of_another_python_has_run_nothing_is_compiled(repository: Path) -> None:
    for step in STEPS:
        (repository / step / "1" / "__pycache__").mkdir()
        (repository / step / "1" / "__pycache__" / "model.cpython-399.pyc").write_bytes(b"x")
    add_version(models("of-july"), repository, 3)
    assert not list(repository.glob("*/3/__pycache__"))
