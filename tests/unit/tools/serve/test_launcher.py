# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.launcher`, with programs in tritonserver's place that are a few lines each."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve.launcher import ServerStoppedError, running_server
from flagtriton_tools.tritonserver.options import ServeOptions
from flagtriton_tools.tritonserver.process import RunningServer
from tests.support.folders import executable
from tests.support.servers.program import SERVER, options_for


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep secrets in a folder of this test; return it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "flagtriton"


@pytest.fixture
def unstarted(tmp_path: Path) -> Iterator[ServeOptions]:
    """Yield options whose server must not be started: it would leave a file behind."""
    trace = tmp_path / "started"
    yield options_for(tmp_path, f"#!/bin/sh\ntouch {trace}\n")
    assert not trace.exists()


def run(options: ServeOptions) -> None:
    with running_server(options):
        raise AssertionError("this server must not get ready")


def test_a_repository_that_is_no_folder_is_refused(unstarted: ServeOptions, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="gone is no folder; `flagtriton add"):
        run(replace(unstarted, repository=tmp_path / "gone"))


def test_an_empty_repository_is_refused(unstarted: ServeOptions, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ToolError, match="empty holds no model; `flagtriton add"):
        run(replace(unstarted, repository=tmp_path / "empty"))


def test_a_deployment_that_is_not_there_cannot_be_loaded(unstarted: ServeOptions) -> None:
    with pytest.raises(ToolError, match=r"--load is gone, but .* has tiny"):
        run(replace(unstarted, load=("tiny", "gone")))


@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_that_is_in_use_is_named_by_its_flag(unstarted: ServeOptions, name: str) -> None:
    port = getattr(unstarted, name)
    said = f"--{name.replace('_', '-')} {port} on 127.0.0.1: Address already in use"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ToolError, match=said):
        run(unstarted)


def test_two_ports_that_are_the_same_are_refused(unstarted: ServeOptions) -> None:
    with pytest.raises(ToolError, match=f"two ports are the same: --http-port {unstarted.http_port}, --grpc-port"):
        run(replace(unstarted, grpc_port=unstarted.http_port))


def test_a_host_that_is_not_this_machines_is_refused(unstarted: ServeOptions) -> None:
    # 192.0.2.1 is kept for documentation (RFC 5737)
    with pytest.raises(ToolError, match=r"on 192\.0\.2\.1: Cannot assign requested address"):
        run(replace(unstarted, host="192.0.2.1"))


def test_a_server_that_ends_before_it_is_ready_is_reported_with_its_log(tmp_path: Path) -> None:
    options = options_for(tmp_path, "#!/bin/sh\necho 'E1 failed to load tiny'\nexit 3\n")
    with pytest.raises(ServerStoppedError) as stopped:
        run(options)
    assert stopped.value.exit_code == 3
    assert str(stopped.value) == (
        f"tritonserver ended with code 3 before it was ready; see {options.log_file}, which ends:\n"
        "  E1 failed to load tiny"
    )


def test_what_a_server_says_on_stderr_is_in_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerStoppedError, match="on stderr"):
        run(options_for(tmp_path, "#!/bin/sh\necho 'on stderr' >&2\nexit 3\n"))


def reported(tmp_path: Path, log: list[str]) -> list[str]:
    """Return the lines of the log that are shown where a server ends with this log."""
    (tmp_path / "said").write_text("\n".join(log) + "\n", encoding="utf-8")
    with pytest.raises(ServerStoppedError) as stopped:
        run(options_for(tmp_path, f"#!/bin/sh\ncat '{tmp_path}/said'\nexit 3\n"))
    return str(stopped.value).splitlines()[1:]


def test_only_the_logs_last_six_lines_are_reported(tmp_path: Path) -> None:
    assert reported(tmp_path, [str(number) for number in range(1, 11)]) == ["  5", "  6", "  7", "  8", "  9", "  10"]


def test_the_last_four_errors_are_reported_however_far_up_they_stand(tmp_path: Path) -> None:
    errors = ["E1121 first", "E1121 second", "E1121 third", "I1121 between", "E1121 fourth", "E1121 fifth"]
    last = [f"I1121 {number}" for number in range(6)]
    assert reported(tmp_path, [*errors, "I1121 dropped", *last]) == [
        f"  {line}" for line in ["E1121 second", "E1121 third", "E1121 fourth", "E1121 fifth", *last]
    ]


def test_an_error_among_the_last_lines_is_reported_once(tmp_path: Path) -> None:
    assert reported(tmp_path, ["E1121 only", "I1121 stopping"]) == ["  E1121 only", "  I1121 stopping"]


def test_tables_and_empty_lines_of_the_log_are_left_out(tmp_path: Path) -> None:
    log = ["+-------+", "| Model | UNAVAILABLE |", "+-------+", "", "I1121 stopping"]
    assert reported(tmp_path, log) == ["  I1121 stopping"]


def test_a_server_ended_by_a_signal_gives_its_number_and_128(tmp_path: Path) -> None:
    with pytest.raises(ServerStoppedError, match="ended with code 137") as stopped:
        run(options_for(tmp_path, "#!/bin/sh\nkill -KILL $$\n"))
    assert stopped.value.exit_code == 128 + 9


def test_a_server_that_ends_without_a_complaint_is_a_failure_too(tmp_path: Path) -> None:
    # `flagtriton serve` promised a server: a script that starts it must not read success.
    with pytest.raises(ServerStoppedError) as stopped:
        run(options_for(tmp_path, "#!/bin/sh\nexit 0\n"))
    assert stopped.value.exit_code != 0


def test_a_program_that_cannot_be_run_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="tritonserver"):
        run(options_for(tmp_path, "#!/no/such/interpreter\n"))


def test_a_log_that_cannot_be_written_is_the_users_to_mend(unstarted: ServeOptions, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match=r"file/server\.log"):
        run(replace(unstarted, log_file=tmp_path / "file" / "server.log"))


def test_a_ready_server_tells_its_version(tmp_path: Path) -> None:
    with running_server(options_for(tmp_path, SERVER)) as server:
        assert server.version == "9.9"


def test_what_happens_is_reported_models_that_are_ready_included(tmp_path: Path) -> None:
    lines: list[str] = []
    options = options_for(tmp_path, SERVER)
    with running_server(options, lines.append):
        assert lines == [f"tritonserver: {options.tritonserver} (--tritonserver)", "ready: tiny"]


def test_the_server_is_told_where_and_what_to_serve(tmp_path: Path) -> None:
    options = replace(options_for(tmp_path, SERVER), load=("tiny",), extra=("--log-verbose=1",))
    with running_server(options):
        log = options.log_file.read_text("utf-8")
    for flag in [
        f"--model-repository={options.repository.resolve()}",
        "--http-address=127.0.0.1",
        f"--http-port={options.http_port}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-port={options.metrics_port}",
        "--model-control-mode=explicit",
        "--load-model=tiny",
        "--log-verbose=1",
    ]:
        assert f'"{flag}"' in log


def test_the_server_is_started_from_a_folder_that_holds_nothing_to_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running_server(options_for(tmp_path, SERVER)) as server:
        folder = Path(f"/proc/{server.process.pid}/cwd").resolve()
        assert folder != tmp_path
        assert list(folder.iterdir()) == []


def test_a_server_is_stopped_on_leaving(tmp_path: Path) -> None:
    with running_server(options_for(tmp_path, SERVER)) as server:
        assert server.process.poll() is None
    assert server.process.returncode == 0


def test_a_server_is_stopped_where_the_body_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), running_server(options_for(tmp_path, SERVER)) as server:
        raise ZeroDivisionError
    assert server.process.returncode == 0


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunningServer.stop, "__defaults__", (0.2,))
    options = replace(options_for(tmp_path, SERVER), extra=("--deaf=1",))
    with running_server(options) as server:
        pass
    assert server.process.returncode == -9


def test_what_a_server_has_started_is_killed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunningServer.stop, "__defaults__", (0.2,))
    script = executable(tmp_path / "parent", "#!/bin/sh\ntrap '' TERM\ntail -f /dev/null &\necho up\nwait\n")
    process = subprocess.Popen([script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    assert RunningServer(ServeOptions(tmp_path), process, "flagtriton_test_").stop() == 137
    assert process.stdout.read() == b""  # ends only when the child, which holds the pipe too, is gone
    process.stdout.close()


def test_stopping_a_server_that_has_ended_gives_its_exit_code(tmp_path: Path) -> None:
    process = subprocess.Popen([executable(tmp_path / "done", "#!/bin/sh\nexit 7\n")], start_new_session=True)
    process.wait()
    assert RunningServer(ServeOptions(tmp_path), process, "flagtriton_test_").stop() == 7


def test_a_server_that_does_not_get_ready_in_time_is_stopped(tmp_path: Path) -> None:
    source = f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec tail -f /dev/null\n"
    with pytest.raises(ToolError, match=r"not ready within 1 s; see .*server\.log"):
        run(replace(options_for(tmp_path, source), ready_timeout_s=1))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text("utf-8")), 0)
