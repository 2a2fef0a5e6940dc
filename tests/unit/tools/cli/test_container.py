# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.cli.container`: what a container adds and serves, by its environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from flagtriton_tools.cli.container import ContainerSettings, run
from flagtriton_tools.cli.main import cli
from flagtriton_tools.errors import ToolError


class Commands(list[list[str]]):
    """Takes the place of `flagtriton`; keeps what it is called with."""

    def __init__(self, *codes: int) -> None:
        super().__init__()
        self.codes = list(codes)

    def __call__(self, arguments: Sequence[str]) -> int:
        self.append(list(arguments))
        return self.codes.pop(0) if self.codes else 0


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "FLAGTRITON_REPOSITORY": str(tmp_path / "models"),
        "FLAGTRITON_HEALTH_FILE": str(tmp_path / "run" / "healthy"),
        **more,
    }


def serving(tmp_path: Path, *more: str) -> list[str]:
    paths = str(tmp_path / "models"), str(tmp_path / "run" / "healthy")
    return [
        *("serve", "--repository", paths[0], "--host", "0.0.0.0"),
        *("--health-file", paths[1], "--log-file", "-", *more),
    ]


def test_without_models_the_repository_is_served_as_it_is(tmp_path: Path) -> None:
    commands = Commands()
    assert run([], environment(tmp_path), commands) == 0
    assert commands == [serving(tmp_path)]
    assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "models",
    [
        "BAAI/bge-m3 --max-length 1024; BAAI/bge-reranker-v2-m3",
        "\nBAAI/bge-m3 --max-length 1024\n\n  BAAI/bge-reranker-v2-m3 ;\n",
    ],
    ids=["semicolons", "lines"],
)
def test_models_are_added_and_then_served(tmp_path: Path, models: str) -> None:
    commands = Commands()
    assert run([], environment(tmp_path, FLAGTRITON_MODELS=models), commands) == 0
    to = ["--repository", str(tmp_path / "models"), "--force"]
    assert commands == [
        ["add", "BAAI/bge-m3", "--max-length", "1024", *to],
        ["add", "BAAI/bge-reranker-v2-m3", *to],
        serving(tmp_path),
    ]


def test_options_are_read_as_a_shell_does(tmp_path: Path) -> None:
    commands = Commands()
    models = "intfloat/e5-base-v2 --query-instruction 'query: ' --name e5"
    more = {"FLAGTRITON_MODELS": models, "FLAGTRITON_SERVE": '--load e5 -- "--log-verbose=1"'}
    run([], environment(tmp_path, **more), commands)
    assert commands[0][:5] == ["add", "intfloat/e5-base-v2", "--query-instruction", "query: ", "--name"]
    assert commands[1] == serving(tmp_path, "--load", "e5", "--", "--log-verbose=1")


def test_a_model_that_cannot_be_added_ends_the_container(tmp_path: Path) -> None:
    commands = Commands(0, 2)
    assert run([], environment(tmp_path, FLAGTRITON_MODELS="a/b; c/d; e/f"), commands) == 2
    assert [command[1] for command in commands] == ["a/b", "c/d"]


def test_the_server_s_exit_code_is_the_container_s(tmp_path: Path) -> None:
    assert run([], environment(tmp_path), Commands(137)) == 137


def test_arguments_are_flagtriton_s(tmp_path: Path) -> None:
    commands = Commands(3)
    assert run(["list", "--repository", "/models"], environment(tmp_path), commands) == 3
    assert commands == [["list", "--repository", "/models"]]


def test_the_environment_settles_the_rest() -> None:
    said = ContainerSettings.of(
        {"FLAGTRITON_HOST": "::", "FLAGTRITON_SECRET_FILE": "/secret", "FLAGTRITON_MODELS": " "}
    )
    assert said == ContainerSettings(host="::", secret_file=Path("/secret"))
    assert said.serving[-2:] == ["--secret-file", "/secret"]
    assert ContainerSettings.of({}).repository == Path("/models")


@pytest.mark.parametrize("name", ["FLAGTRITON_MODELS", "FLAGTRITON_SERVE"])
def test_an_open_quote_is_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands()
    assert run([], environment(tmp_path, **{name: "--x 'y"}), commands) == 2
    assert commands == []
    assert f'{name} is "--x \'y": No closing quotation' in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_repository_that_cannot_be_written_is_named_by_its_user(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir(mode=0o500)
    assert run([], environment(tmp_path, FLAGTRITON_MODELS="a/b"), Commands()) == 2


def test_a_repository_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert run([], environment(tmp_path, FLAGTRITON_MODELS="a/b"), Commands()) == 2
    assert (
        "models cannot be written, but FLAGTRITON_MODELS names models to add; mount a volume" in capsys.readouterr().err
    )
    assert run([], environment(tmp_path), Commands()) == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").touch()
    assert run([], environment(tmp_path), Commands()) == 2
    assert "run cannot be made: File exists; mount a volume there" in capsys.readouterr().err


def test_what_it_calls_is_known_to_the_command_line(tmp_path: Path) -> None:
    settings = ContainerSettings(models=(("a/b",),), secret_file=Path("/secret"))
    for arguments in (*settings.additions, settings.serving):
        command = cli.commands[arguments[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {each for each in arguments if each.startswith("--")} <= known


def test_tool_errors_have_a_code() -> None:
    assert ToolError("x").exit_code == 2
