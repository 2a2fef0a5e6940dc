# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.cli.main`: the command line in this process, by its exit codes and what it prints."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flagtriton.protocol import deployment
from flagtriton_tools.cli import main as command_line
from flagtriton_tools.cli.main import main
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import entries, model_names
from flagtriton_tools.tritonserver.options import free_ports
from tests.support.checkpoints.tiny import make_bert
from tests.support.folders import executable, snapshot, write_checkpoint, write_json


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_bert(tmp_path_factory.mktemp("checkpoints") / "tiny"))


@pytest.fixture
def repository(tmp_path: Path) -> str:
    return str(tmp_path / "repo")


def test_what_is_added_is_listed_until_it_is_removed(
    checkpoint: str, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add", checkpoint, "--repository", repository, "--pooling", "mean"]) == 0
    assert main(["list", "--repository", repository]) == 0
    assert "tiny" in capsys.readouterr().out
    assert main(["remove", "tiny", "--repository", repository]) == 0
    assert main(["list", "--repository", repository]) == 0
    assert capsys.readouterr().out == ""


def test_the_list_says_what_auto_comes_to(
    checkpoint: str, repository: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "best_cpu_precision", lambda: "bf16")  # as on a processor with AMX
    for name, *options in (("on-cpu",), ("on-gpu", "--device", "gpu:0"), ("said", "--precision", "fp32")):
        assert main(["add", checkpoint, "--repository", repository, "--name", name, *options]) == 0
    capsys.readouterr()
    assert main(["list", "--repository", repository]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "auto (bf16)" in rows["on-cpu"]
    assert "auto (fp16)" in rows["on-gpu"]
    assert "fp32" in rows["said"]
    assert "auto" not in rows["said"]
    assert main(["list", "--json", "--repository", repository]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each["name"]: (each["precision"], each["resolved_precision"]) for each in listed} == {
        "on-cpu": ("auto", "bf16"),
        "on-gpu": ("auto", "fp16"),
        "said": ("fp32", "fp32"),
    }


def test_adding_says_what_will_be_served_and_how(
    checkpoint: str, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["add", checkpoint, "--repository", repository, "--pooling", "mean", "--precision", "fp32"])
    said = capsys.readouterr()
    added, hint = said.err.splitlines()
    assert added.startswith(f"added tiny to {repository}: embed encoder-only-base, mean pooling")
    assert added.endswith("up to 512 tokens, fp32 on cpu")
    assert hint == f"serve it with: flagtriton serve --repository {repository}"
    assert said.out == ""


def test_every_option_reaches_the_deployment(checkpoint: str, repository: str) -> None:
    options = {
        "--name": "mine",
        "--pooling": "last_token",
        "--device": "gpu:0,1",
        "--precision": "bf16",
        "--max-length": "64",
        "--max-batch-size": "8",
        "--query-instruction": "q",
        "--query-instruction-format": "<{}>{}",
        "--passage-instruction": "p",
        "--passage-instruction-format": "[{}]{}",
        "--revision": "v2",
    }
    flags = [word for option in options.items() for word in option]
    assert main(["add", checkpoint, "--repository", repository, "--trust-remote-code", *flags]) == 0
    (entry,) = entries(Path(repository))
    served = entry.deployment
    assert (entry.name, entry.max_batch_size) == ("mine", 8)
    assert (served.pooling_method, served.device, served.precision) == ("last_token", "gpu:0,1", "bf16")
    assert (served.max_length, served.revision, served.trust_remote_code) == (64, "v2", True)
    assert (served.query_instruction, served.query_instruction_format) == ("q", "<{}>{}")
    assert (served.passage_instruction, served.passage_instruction_format) == ("p", "[{}]{}")


def test_remote_code_is_off_unless_asked_for(checkpoint: str, repository: str) -> None:
    main(["add", checkpoint, "--repository", repository])
    assert not entries(Path(repository))[0].deployment.trust_remote_code


def test_a_list_for_programs_is_one_object_a_line(
    checkpoint: str, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b", "a"):
        main(["add", checkpoint, "--repository", repository, "--name", name])
    capsys.readouterr()
    assert main(["list", "--json", "--repository", repository]) == 0
    listed: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["name"] for entry in listed] == ["a", "b"]
    assert (listed[0]["checkpoint"], listed[0]["hidden_size"], listed[0]["revision"]) == (checkpoint, 48, None)
    assert listed[0]["steps"] == ["a_tokenizer", "a_encoder", "a_pooler"]


def test_versions_are_added_listed_switched_and_removed(
    checkpoint: str, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed() -> str:
        capsys.readouterr()
        assert main(["list", "--repository", repository]) == 0
        header, line = capsys.readouterr().out.splitlines()
        return line[header.index("version") : header.index("task")].strip()

    where = ["--repository", repository]
    assert main(["add", checkpoint, *where]) == 0
    assert listed() == "1"
    assert main(["add", checkpoint, *where, "--model-version", "2"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"added tiny version 2 to {repository}: embed")
    assert said[-1] == "a running server goes over to it with: flagtriton load tiny"
    assert listed() == "2 (also 1)"
    assert main(["switch", "tiny", "1", *where]) == 0
    assert capsys.readouterr().err == "tiny is now version 1, was 2; on a running server: flagtriton load tiny\n"
    assert listed() == "1 (also 2)"
    assert main(["remove", "tiny", *where, "--model-version", "1"]) == 2
    assert "version 1 of tiny is the one that answers" in capsys.readouterr().err
    assert main(["remove", "tiny", *where, "--model-version", "2"]) == 0
    assert capsys.readouterr().err == f"removed version 2 of tiny from {repository}\n"
    assert listed() == "1"
    assert main(["list", "--json", *where]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert (entry["version"], entry["versions"]) == (1, [1])


def test_a_copied_checkpoint_lies_in_the_repository(checkpoint: str, repository: str) -> None:
    assert main(["add", checkpoint, "--repository", repository, "--copy-checkpoint", "--model-version", "3"]) == 0
    assert (Path(repository) / "tiny_encoder" / "3" / "checkpoint" / "model.safetensors").stat().st_size > 0


def test_an_empty_repository_lists_nothing_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json", "--repository", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_empty_repository_tells_people_how_to_fill_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--repository", str(tmp_path)]) == 0
    assert "has no deployment yet; `flagtriton add CHECKPOINT` adds one" in capsys.readouterr().err


def test_removing_names_the_folders_that_are_gone(
    checkpoint: str, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["add", checkpoint, "--repository", repository])
    capsys.readouterr()
    main(["remove", "tiny", "--repository", repository])
    expected = f"removed tiny, tiny_tokenizer, tiny_encoder, tiny_pooler from {repository}\n"
    assert capsys.readouterr().err == expected
    assert model_names(Path(repository)) == []


def test_what_the_user_can_mend_is_one_sentence_and_exit_code_2(
    repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add", "./gone", "--repository", repository]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "flagtriton: ./gone is no folder; name a checkpoint's folder, or a hub name such as BAAI/bge-m3\n"
    )


def test_adding_twice_is_refused_and_changes_nothing(
    checkpoint: str, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["add", checkpoint, "--repository", repository])
    before = snapshot(Path(repository))
    assert main(["add", checkpoint, "--repository", repository, "--precision", "fp32"]) == 2
    assert "--force" in capsys.readouterr().err
    assert snapshot(Path(repository)) == before


def test_force_replaces(checkpoint: str, repository: str) -> None:
    main(["add", checkpoint, "--repository", repository])
    assert main(["add", checkpoint, "--repository", repository, "--precision", "fp32", "--force"]) == 0
    assert entries(Path(repository))[0].deployment.precision == "fp32"


def test_square_brackets_in_a_message_are_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--repository", str(tmp_path / "[bold]gone")]) == 2
    assert f"{tmp_path}/[bold]gone is no folder" in capsys.readouterr().err


def test_the_pooling_that_nothing_tells_is_not_said_to_be_known(
    tmp_path: Path, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["add", str(write_checkpoint(tmp_path / "mine")), "--repository", repository])
    assert "known from its config.json" not in capsys.readouterr().err  # which says nothing of pooling


def test_a_pooling_that_is_not_served_is_not_replaced_by_another(tmp_path: Path, repository: str) -> None:
    folder = write_checkpoint(tmp_path / "mine")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})
    assert main(["add", str(folder), "--repository", repository]) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["add", "a/b"], "--repository"),
        (["add", "--repository", "repo"], "CHECKPOINT"),
        (["add", "a/b", "--repository", "repo", "--precision", "int8"], "'int8' is not one of"),
        (["add", "a/b", "--repository", "repo", "--max-length", "0"], "--max-length"),
        (["serve", "--repository", "repo", "--http-port", "70000"], "--http-port"),
        (["lsit"], "lsit"),
    ],
)
def test_a_command_line_that_does_not_parse_gives_exit_code_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_help_begins_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "flagtriton add BAAI/bge-large-en-v1.5 --repository repo\n" in shown
    assert "flagtriton serve --repository repo\n" in shown
    assert "curl -s localhost:8000/v2/models/bge-large-en-v1.5/generate" in shown


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("add", "flagtriton add ./my-bge --repository repo --pooling cls\n"),
        ("serve", "flagtriton serve --repository repo --load bge-m3 --http-port 9000 -- --log-verbose=1\n"),
    ],
)
def test_a_commands_help_has_examples_that_can_be_copied(
    command: str, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    assert example in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flagtriton, version ")


def test_serving_gives_the_servers_own_exit_code(
    checkpoint: str,
    repository: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    main(["add", checkpoint, "--repository", repository])
    server = executable(tmp_path / "server", "#!/bin/sh\necho 'E1 out of memory'\nexit 3\n")
    flags = ["--http-port", "--grpc-port", "--metrics-port", "--health-port"]
    ports = zip(flags, map(str, free_ports(4)), strict=True)
    arguments = ["serve", "--repository", repository, "--tritonserver", str(server)]
    arguments += ["--log-file", str(tmp_path / "server.log"), *(word for port in ports for word in port)]
    assert main(arguments) == 3
    assert capsys.readouterr().err.endswith("  E1 out of memory\n")


def test_serving_leaves_signal_handlers_as_they_were(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert main(["serve", "--repository", str(tmp_path)]) == 2  # it is empty
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_an_interruption_gives_the_shells_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(_: Path) -> list[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "entries", interrupted)
    assert main(["list", "--repository", str(tmp_path)]) == 128 + 2


def test_an_errors_own_exit_code_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class FourError(ToolError):
        exit_code = 4

    def fails(_: Path) -> list[Any]:
        raise FourError("four")

    monkeypatch.setattr(command_line, "entries", fails)
    assert main(["list", "--repository", str(tmp_path)]) == 4


def test_the_command_starts_without_the_servers_packages() -> None:
    missing = ("tokenizers", "torch", "transformers", "urllib3")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({missing}))"
    code = f"{blocked}; from flagtriton_tools.cli.main import main; sys.exit(main(['bench', '--texts', '32']))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "pip install 'flagtriton[bench]'" in run.stderr
