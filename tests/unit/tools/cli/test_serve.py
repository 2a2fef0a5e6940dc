# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.cli.serve`: the commands around a running server, with a program of a few lines in its place."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.cli import serve as serve_command
from flagtriton_tools.cli.main import main
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.serve.session import WatchOptions
from flagtriton_tools.tritonserver.options import ServeOptions, free_ports
from flagtriton_tools.tritonserver.process import RunningServer
from tests.support.servers.program import SERVER, options_for


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep logs and secrets in a folder of this test; return it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "flagtriton"


# serve


Parsed = list[tuple[ServeOptions, WatchOptions]]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """Return the options that `serve` is called with."""
    calls: Parsed = []

    def serve(options: ServeOptions, watch: WatchOptions, report: Any) -> int:
        calls.append((options, watch))
        return 7

    monkeypatch.setattr(serve_command, "serve", serve)
    return calls


def test_without_options_a_server_stays_on_this_machine_and_is_watched_every_two_seconds(
    parsed: Parsed, state: Path
) -> None:
    assert main(["serve", "--repository", "repo"]) == 7
    assert parsed == [
        (
            ServeOptions(Path("repo"), health_port=8003, log_file=state / "tritonserver-8000.log", exit_on_error=False),
            WatchOptions(),
        )
    ]


def test_every_option_reaches_the_server(parsed: Parsed) -> None:
    flags = {
        "--repository": "repo",
        "--load": "a",
        "--host": "0.0.0.0",
        "--http-host": "127.0.0.1",
        "--http-port": "1",
        "--grpc-port": "2",
        "--metrics-port": "3",
        "--health-port": "4",
        "--health-file": "h",
        "--every": "5",
        "--max-restarts": "6",
        "--grace-period": "7",
        "--tls-certificate": "c",
        "--tls-key": "k",
        "--tls-client-ca": "ca",
        "--secret-file": "s",
        "--tritonserver": "t",
        "--log-file": "l",
        "--ready-timeout": "8",
    }
    words = [word for flag in flags.items() for word in flag]
    words += ["--load", "b", "--exit-on-error", "--open-admin", "--", "--log-verbose=1", "--own"]
    main(["serve", *words])
    assert parsed == [
        (
            ServeOptions(
                Path("repo"),
                load=("a", "b"),
                host="0.0.0.0",
                plain_http_host="127.0.0.1",
                http_port=1,
                grpc_port=2,
                metrics_port=3,
                health_port=4,
                tritonserver="t",
                log_file=Path("l"),
                ready_timeout_s=8,
                exit_on_error=True,
                tls_certificate=Path("c"),
                tls_key=Path("k"),
                tls_client_ca=Path("ca"),
                secret_file=Path("s"),
                open_admin=True,
                extra=("--log-verbose=1", "--own"),
            ),
            WatchOptions(every_s=5, max_restarts=6, grace_period_s=7, health_file=Path("h")),
        )
    ]


def test_health_is_told_behind_the_metrics(parsed: Parsed) -> None:
    main(["serve", "--repository", "repo", "--metrics-port", "9100"])
    assert parsed[0][0].health_port == 9101


def test_the_log_is_named_by_the_port_or_goes_to_the_terminal(parsed: Parsed, state: Path) -> None:
    main(["serve", "--repository", "repo", "--http-port", "9000"])
    main(["serve", "--repository", "repo", "--log-file", "-"])
    assert [options.log_file for options, _ in parsed] == [state / "tritonserver-9000.log", None]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--health-port", "0"],
        ["--every", "0"],
        ["--max-restarts", "-1"],
        ["--grace-period", "-1"],
        ["--ready-timeout", "0"],
    ],
)
def test_a_number_out_of_range_is_refused(parsed: Parsed, wrong: list[str]) -> None:
    assert main(["serve", "--repository", "repo", *wrong]) == 2
    assert parsed == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_server_in_order_and_the_exit_code_is_0(tmp_path: Path, number: int) -> None:
    options = options_for(tmp_path, SERVER)
    words = ["--repository", options.repository, "--tritonserver", options.tritonserver, "--log-file", tmp_path / "log"]
    words += ["--http-port", options.http_port, "--grpc-port", options.grpc_port]
    words += ["--metrics-port", options.metrics_port, "--health-port", free_ports(1)[0]]
    process = subprocess.Popen(
        [sys.executable, "-m", "flagtriton_tools", "serve", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    log = tmp_path / "log"
    while process.poll() is None and not (log.is_file() and "/v2/health/live" in log.read_text("utf-8")):
        time.sleep(0.01)  # until it is watched
    process.send_signal(number)
    said = process.stderr.read().splitlines()
    assert process.wait(20) == 0
    process.stderr.close()
    assert said[-1] == "stopping; again to kill …"


# load and unload


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(options_for(tmp_path, SERVER)) as server:
        yield server


def test_a_model_of_this_machines_server_is_unloaded_and_loaded_by_its_name(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.options.http_url
    assert main(["unload", "tiny", "--url", url]) == 0
    assert main(["unload", "tiny", "--url", url]) == 2
    assert main(["load", "tiny", "--url", url]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "unloaded tiny",
        f"flagtriton: tiny is not loaded at {url}",
        "loaded tiny",
    ]


def test_a_secret_may_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("0123456789abcdef", encoding="utf-8")
    wrong.write_text("fedcba9876543210", encoding="utf-8")
    with running_server(replace(options_for(tmp_path, SERVER), secret_file=right)) as server:
        url = server.options.http_url
        assert main(["unload", "tiny", "--url", url, "--secret-file", str(wrong)]) == 2
        assert f"{url} wants its secret for this" in capsys.readouterr().err
        assert main(["unload", "tiny", "--url", url]) == 2
        assert main(["unload", "tiny", "--url", url, "--secret-file", str(right)]) == 0


@pytest.mark.parametrize("command", ["load", "unload"])
def test_a_server_that_is_not_there_is_one_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert main([command, "tiny", "--url", url]) == 2
    assert capsys.readouterr().err == (
        f"flagtriton: no answer from {url}; is the server running, and is this its HTTP port?\n"
    )


@pytest.mark.parametrize("command", ["load", "unload"])
def test_a_url_that_is_none_is_one_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "tiny", "--url", "localhost:8000"]) == 2
    assert "the server's URL is 'localhost:8000'; expected http://host:port" in capsys.readouterr().err


def test_a_url_of_something_else_is_one_sentence(server: RunningServer) -> None:
    assert main(["load", "tiny", "--url", f"{server.options.http_url}/elsewhere"]) == 2


def test_a_port_out_of_range_is_one_sentence() -> None:
    assert main(["load", "tiny", "--url", "http://localhost:99999"]) == 2


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_certificates_that_is_none_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    assert main(["load", "tiny", "--url", "https://localhost:1", "--ca-file", str(tmp_path / "ca.pem")]) == 2
