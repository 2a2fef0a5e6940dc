# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.tritonserver.process`: how a program in tritonserver's place is started, and how it ends."""

from __future__ import annotations

import os
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from flagtriton.protocol.runtime_files import REQUEST_LOG
from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver import process as server_process
from flagtriton_tools.tritonserver.embedded import Tritonserver
from flagtriton_tools.tritonserver.flags import server_flags
from flagtriton_tools.tritonserver.options import ServeOptions
from flagtriton_tools.tritonserver.process import RunningServer, start_server
from tests.support.folders import executable

PRINTER = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"


@pytest.fixture
def options(tmp_path: Path) -> ServeOptions:
    return ServeOptions(tmp_path / "repo", log_file=tmp_path / "server.log")


def start(options: ServeOptions, source: str = PRINTER, *models: str, secret: str | None = None) -> RunningServer:
    program = executable(options.repository.parent / "tritonserver", source)
    return start_server(Tritonserver(program, "this test", ("--own=1",)), options, Path("/"), models, secret)


def log_of(options: ServeOptions) -> list[str]:
    assert options.log_file is not None
    return options.log_file.read_text("utf-8").splitlines()


def shared_memory_of(options: ServeOptions) -> str:
    return f"flagtriton_{os.getpid()}_{options.http_port}_"


def test_a_server_is_given_its_own_arguments_and_then_the_flags(options: ServeOptions) -> None:
    server = start(options, PRINTER, "a", "a_encoder", secret="0123456789abcdef")
    assert server.wait() == 0
    flags = server_flags(options, ["a", "a_encoder"], "0123456789abcdef", shared_memory_of(options))
    assert log_of(options) == ["--own=1", *flags]


def test_a_server_knows_its_secret_and_does_not_show_it(options: ServeOptions) -> None:
    server = start(options, PRINTER, secret="0123456789abcdef")
    server.wait()
    assert server.secret == "0123456789abcdef"
    assert "0123456789abcdef" not in repr(server)


def test_a_server_is_the_first_of_a_process_group_of_its_own(options: ServeOptions) -> None:
    server = start(options, "#!/bin/sh\nexec tail -f /dev/null\n")
    assert os.getpgid(server.process.pid) == server.process.pid != os.getpgid(0)
    server.kill()
    assert server.wait() == 137


def test_a_server_has_no_exit_code_while_it_runs(options: ServeOptions) -> None:
    server = start(options, "#!/bin/sh\nexec tail -f /dev/null\n")
    assert server.exit_code is None
    server.kill()
    server.wait()
    assert server.exit_code == 137


@pytest.mark.parametrize(
    ("source", "code"), [("exit 3", 3), ("kill -KILL $$", 128 + 9), ("kill -SEGV $$", 128 + 11), ("exit 0", 0)]
)
def test_an_exit_code_is_as_a_shell_tells_it(options: ServeOptions, source: str, code: int) -> None:
    server = start(options, f"#!/bin/sh\nulimit -c 0\n{source}\n")
    assert (server.wait(), server.exit_code) == (code, code)


def test_a_server_that_ends_when_it_is_asked_to_gives_its_own_code(options: ServeOptions) -> None:
    server = start(options, "#!/bin/sh\ntrap 'exit 5' TERM\necho up\nwhile :; do sleep 0.01; done\n")
    while log_of(options) != ["up"]:
        pass
    assert server.stop() == 5


def test_a_server_that_ignores_that_is_killed_after_the_time_it_was_given(options: ServeOptions) -> None:
    server = start(options, "#!/bin/sh\ntrap '' TERM\necho up\nwhile :; do sleep 0.01; done\n")
    while log_of(options) != ["up"]:
        pass
    assert server.stop(0.1) == 137


def test_stopping_has_longer_than_tritons_own_grace_period() -> None:
    assert RunningServer.stop.__defaults__ == (server_process._STOP_TIMEOUT_S,)
    assert server_process._STOP_TIMEOUT_S > 30


def test_the_shared_memory_of_a_server_is_freed_and_no_others(
    options: ServeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "SHARED_MEMORY", tmp_path)
    for name in (f"{shared_memory_of(options)}region", f"{shared_memory_of(options)}2", "flagtriton_1_2_other"):
        (tmp_path / name).touch()
    start(options).stop()
    assert [path.name for path in tmp_path.glob("flagtriton_*")] == ["flagtriton_1_2_other"]


def test_killing_what_is_gone_is_no_error(options: ServeOptions) -> None:
    server = start(options)
    server.wait()
    server.kill()
    server.kill()


def test_the_log_begins_anew_unless_it_is_to_be_continued(options: ServeOptions, tmp_path: Path) -> None:
    assert options.log_file is not None
    options.log_file.write_text("old\n", encoding="utf-8")
    program = Tritonserver(executable(tmp_path / "tritonserver", "#!/bin/sh\necho new\n"), "this test")
    start_server(program, options, Path("/"), []).wait()
    assert log_of(options) == ["new"]
    start_server(program, options, Path("/"), [], again=True).wait()
    assert log_of(options) == ["new", "new"]


def test_a_server_ends_with_the_thread_that_started_it(options: ServeOptions) -> None:
    servers: list[RunningServer] = []
    thread = threading.Thread(target=lambda: servers.append(start(options, "#!/bin/sh\nexec tail -f /dev/null\n")))
    thread.start()
    thread.join()
    assert servers[0].process.wait(20) == -15


def test_a_server_reads_nothing_from_the_terminal(options: ServeOptions) -> None:
    assert start(options, "#!/bin/sh\nread line || exit 6\n").wait() == 6


def test_a_program_that_is_none_is_the_users_to_mend(options: ServeOptions) -> None:
    with pytest.raises(ToolError, match=r"cannot start .*tritonserver: "):
        start(options, "#!/no/such/interpreter\n")


def test_last_words_are_the_end_of_the_log(options: ServeOptions) -> None:
    server = start(options, "#!/bin/sh\necho 'E1122 gone'\n")
    server.wait()
    assert server.last_words() == f"; see {options.log_file}, which ends:\n  E1122 gone"


def test_without_a_log_file_last_words_stand_on_the_terminal(tmp_path: Path) -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    assert RunningServer(ServeOptions(tmp_path), process, "flagtriton_test_").last_words() == "; its log is above"


def test_steps_are_told_where_the_log_of_requests_is(options: ServeOptions, tmp_path: Path) -> None:
    printer = f'#!/bin/sh\nprintf "%s\\n" "${{{REQUEST_LOG}-none}}"\n'
    start(options, printer).wait()
    assert log_of(options) == ["none"]
    start(replace(options, request_log=tmp_path / "requests"), printer).wait()
    assert log_of(options) == [str(tmp_path / "requests")]
