# SPDX-License-Identifier: Apache-2.0
""".github/workflows and .ci/run: files that GitHub accepts, and that run what the Makefile has."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import flagtriton
from tests.robustness.fuzz.__main__ import main as fuzz
from tests.robustness.soak.__main__ import main as soak
from tests.support.metadata import built_metadata
from tests.support.paths import ROOT

FOLDER = ROOT / ".github" / "workflows"
CI_RUN = ROOT / ".ci" / "run"
NAMES = ("ci.yml", "release.yml")
CHECK = Path(sys.executable).parent / "check-jsonschema"

CI_JOBS = {name: name for name in ("lint", "unit", "coverage", "server", "parity", "docs")}
NIGHTLY: dict[str, click.Command] = {"fuzz": fuzz, "soak": soak}

PINNED = re.compile(r"- uses: [\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
"""An action by its commit, which does not move as tags do, with the release that the commit is."""


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def triggers(name: str) -> dict[str, Any]:
    return workflow(name)[True]  # YAML 1.1 reads the key `on` as true


def scripts(job: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in job.get("steps", ()) if "run" in step)


def targets(text: str) -> set[str]:
    """Return the make targets that a file calls, comments aside."""
    return set(re.findall(r"\bmake(?: -\w+)* ([a-z][\w-]*)", re.sub(r"#.*", "", text)))


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def release_steps(job: str) -> Iterator[dict[str, Any]]:
    yield from workflow("release.yml")["jobs"][job]["steps"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflows_keep_to_github_s_schema(name: str, schema: str) -> None:
    checked = subprocess.run(
        [CHECK, "--builtin-schema", schema, FOLDER / name], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_no_other_workflow_escapes_these_tests() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_action_is_pinned_to_the_commit_of_a_release(name: str) -> None:
    used = [line.strip() for line in (FOLDER / name).read_text().splitlines() if re.match(r"\s*(- )?uses:", line)]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line) and "uses: ./" not in line] == []


def test_an_action_has_one_version_in_all_workflows() -> None:
    text = "".join((FOLDER / name).read_text() for name in NAMES)
    versions = set(re.findall(r"uses: ([\w-]+/[\w./-]+)@(\w+)", text))
    assert len(versions) == len({action for action, _ in versions})


@pytest.mark.parametrize("file", [*(FOLDER / name for name in NAMES), CI_RUN], ids=lambda file: file.name)
def test_every_make_target_that_is_called_exists_and_is_listed(file: Path) -> None:
    listed = set(re.findall(r"^  make ([\w-]+) ", make("--silent", "help"), re.M))
    called = targets(file.read_text())
    assert called
    assert called <= listed
    for target in called:
        make("--dry-run", target)


def test_each_job_of_ci_calls_its_make_target() -> None:
    jobs = workflow("ci.yml")["jobs"]
    assert {name: targets(scripts(job)) for name, job in jobs.items()} == {
        **{name: {target} for name, target in CI_JOBS.items()},
        **{name: {name} for name in NIGHTLY},
    }


def test_the_jobs_run_every_test_file() -> None:
    commands = make("--dry-run", *CI_JOBS.values())
    folders = set(re.findall(r" (tests/\w+)(?= )", commands))
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert {name for name in files if not name.startswith(tuple(f"{folder}/" for folder in folders))} == set()
    for ignored in re.findall(r"--ignore (\S+)", commands):
        assert f"pytest {ignored} " in commands


def test_unit_tests_run_on_every_python_that_is_allowed() -> None:
    listed = re.findall(r"Python :: (3\.\d+)", " ".join(built_metadata().classifiers or ()))
    assert workflow("ci.yml")["jobs"]["unit"]["strategy"]["matrix"]["python-version"] == listed


def test_the_long_runs_are_nightly() -> None:
    assert triggers("ci.yml")["schedule"]
    jobs = workflow("ci.yml")["jobs"]
    assert {name for name, job in jobs.items() if "schedule" in job.get("if", "")} == set(NIGHTLY)


@pytest.mark.parametrize("name", NIGHTLY)
def test_the_long_runs_arguments_are_accepted(name: str) -> None:
    run = re.sub(r"\$\{\{.*?\}\}", "1", scripts(workflow("ci.yml")["jobs"][name]))
    [given] = [word.removeprefix("ARGS=") for word in shlex.split(run) if word.startswith("ARGS=")]
    assert NIGHTLY[name].make_context(name, shlex.split(given)).params


def test_the_soak_test_s_report_is_kept() -> None:
    soak_job = workflow("ci.yml")["jobs"]["soak"]
    [kept] = [step["with"]["path"] for step in soak_job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert f"--out {kept.rstrip('/')}'" in scripts(soak_job)


@pytest.mark.parametrize(("tag", "code"), [(f"v{flagtriton.__version__}", 0), ("v999.0.0", 1)])
def test_only_the_tag_of_this_version_is_released(tag: str, code: int, tmp_path: Path) -> None:
    [check] = [step for step in release_steps("dist") if step.get("id") == "version"]
    environment = {**os.environ, "GITHUB_REF_NAME": tag, "GITHUB_OUTPUT": str(tmp_path / "output")}
    ran = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", check["run"]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    if code == 0:
        assert (tmp_path / "output").read_text() == f"version={flagtriton.__version__}\n"
    else:
        assert "::error::the tag is v999.0.0" in ran.stdout


def test_tags_of_versions_alone_start_a_release() -> None:
    assert triggers("release.yml") == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize("job", ["pypi", "image"])
def test_nothing_is_published_before_the_checks_and_the_version_pass(job: str) -> None:
    jobs = workflow("release.yml")["jobs"]
    assert set(jobs[job]["needs"]) == {"checks", "dist"}
    assert jobs["checks"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in triggers("ci.yml")


def test_jobs_may_write_only_what_they_publish() -> None:
    for name in NAMES:
        assert workflow(name)["permissions"] == {"contents": "read"}
    granted = {name: job.get("permissions", {}) for name, job in workflow("release.yml")["jobs"].items()}
    writes = {name: {what for what, how in each.items() if how == "write"} for name, each in granted.items()}
    assert writes == {"checks": set(), "dist": set(), "pypi": {"id-token"}, "image": {"packages"}}
    assert not any(job.get("permissions") for job in workflow("ci.yml")["jobs"].values())


def test_the_image_is_built_from_the_dockerfile_and_named_by_the_version() -> None:
    [build] = [step["with"] for step in release_steps("image") if "build-push" in step.get("uses", "")]
    assert (ROOT / build["context"] / build["file"]).resolve() == ROOT / "docker" / "Dockerfile"
    assert build["tags"] == "ghcr.io/${{ github.repository }}:${{ needs.dist.outputs.version }}"
    assert workflow("release.yml")["jobs"]["dist"]["outputs"]["version"] == "${{ steps.version.outputs.version }}"
