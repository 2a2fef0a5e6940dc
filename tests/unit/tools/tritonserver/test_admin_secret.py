# SPDX-License-Identifier: Apache-2.0
"""`tritonserver.admin_secret`: who can read a secret, where it is found, and how it leaves the process list."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver.admin_secret import (
    find_secret,
    hide_from_process_list,
    kept_secret,
    read_secret,
    state_folder,
)

SECRET = "0123456789abcdef"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep secrets in a folder of this test; return it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "flagtriton"


def secret_file(tmp_path: Path, content: str | bytes = SECRET) -> Path:
    file = tmp_path / "secret"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_state_is_kept_where_the_user_says_or_below_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, state: Path, tmp_path: Path
) -> None:
    assert state_folder() == state
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local" / "state" / "flagtriton"


def test_a_secret_is_found_while_it_is_kept_and_gone_afterwards(state: Path) -> None:
    with kept_secret(8000) as secret:
        assert find_secret("http://localhost:8000", None) == secret
        assert [file.name for file in state.iterdir()] == ["admin-8000.secret"]
    assert find_secret("http://localhost:8000", None) is None
    assert list(state.iterdir()) == []


def test_a_secret_is_gone_where_the_block_fails(state: Path) -> None:
    with pytest.raises(ZeroDivisionError), kept_secret(8000):
        raise ZeroDivisionError
    assert list(state.iterdir()) == []


def test_each_start_has_a_secret_of_its_own_of_256_bits() -> None:
    with kept_secret(8000) as first, kept_secret(9000) as second:
        assert first != second
        assert len(first) == len(second) == 43  # 32 bytes in base 64


def test_the_user_alone_can_read_a_kept_secret(state: Path) -> None:
    with kept_secret(8000):
        assert stat.S_IMODE((state / "admin-8000.secret").stat().st_mode) == 0o600
        assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_an_old_file_that_others_can_read_is_not_written_into(state: Path) -> None:
    state.mkdir(parents=True)
    old = state / "admin-8000.secret"
    old.write_text("old")
    old.chmod(0o644)
    with old.open() as opened_before, kept_secret(8000) as secret:
        assert stat.S_IMODE(old.stat().st_mode) == 0o600
        assert old.read_text() == secret
        assert opened_before.read() == "old"  # who had it open reads nothing new


def test_a_link_in_place_of_the_file_is_not_followed(state: Path, tmp_path: Path) -> None:
    state.mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    (state / "admin-8000.secret").symlink_to(tmp_path / "mine")
    with kept_secret(8000):
        assert not (state / "admin-8000.secret").is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_state_folder_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with (
        pytest.raises(ToolError, match=r"cannot keep the admin secret in .*; name a file with --secret-file"),
        kept_secret(8000),
    ):
        raise AssertionError


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://127.0.0.1:8000", "http://127.8.9.1", "http://[::1]"])
def test_a_server_of_this_machine_is_found_by_its_port_8000_unless_named(url: str) -> None:
    with kept_secret(8000) as secret, kept_secret(9000):
        assert find_secret(url, None) == secret


@pytest.mark.parametrize(
    "url", ["http://triton:8000", "http://192.168.0.1:8000", "https://localhost.evil.example:8000", "http://[fd00::1]"]
)
def test_another_machine_is_not_told_the_secret_of_this_one(url: str) -> None:
    with kept_secret(8000):
        assert find_secret(url, None) is None


def test_a_server_of_another_port_has_another_secret() -> None:
    with kept_secret(8000):
        assert find_secret("http://localhost:8001", None) is None


def test_a_file_goes_before_what_is_kept(tmp_path: Path) -> None:
    with kept_secret(8000):
        assert find_secret("http://localhost:8000", secret_file(tmp_path)) == SECRET


def test_a_file_holds_for_any_machine(tmp_path: Path) -> None:
    assert find_secret("https://triton:8443", secret_file(tmp_path)) == SECRET


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"  {SECRET}\r\n"])
def test_space_around_a_secret_is_no_part_of_it(tmp_path: Path, content: str) -> None:
    assert read_secret(secret_file(tmp_path, content)) == SECRET


def test_every_character_that_a_header_and_a_flag_can_carry_may_be_in_a_secret(tmp_path: Path) -> None:
    assert read_secret(secret_file(tmp_path, "AZaz09-_.~+/===="))


@pytest.mark.parametrize(
    "content",
    ["", "\n", SECRET[1:], f"{SECRET}:", f"{SECRET},", f"{SECRET} x", f"{SECRET}\nx", f"{SECRET}é", f"{SECRET}\0"],
)
def test_what_cannot_be_a_secret_is_refused_with_how_to_make_one(tmp_path: Path, content: str) -> None:
    file = secret_file(tmp_path, content)
    with pytest.raises(ToolError) as refused:
        read_secret(file)
    assert str(refused.value) == (
        f"{file} holds no admin secret; expected at least 16 characters of A-Z a-z 0-9 - _ . ~ + / =, as "
        "`openssl rand -hex 32` makes them"
    )


def test_a_refusal_does_not_repeat_what_the_file_holds(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as refused:
        read_secret(secret_file(tmp_path, "almost a secret"))
    assert "almost" not in str(refused.value)


def test_a_file_that_is_missing_or_no_text_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"cannot read the admin secret: .*gone"):
        read_secret(tmp_path / "gone")
    with pytest.raises(ToolError, match="cannot read the admin secret: 'utf-8'"):
        read_secret(secret_file(tmp_path, b"\xff" * 20))


# What other users of this machine see.

CHILD = "import sys; print('up', flush=True); sys.stdin.readline(); print(sys.argv[1], flush=True)"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has the secret among its arguments twice, and says one of them when it is asked."""
    flags = [f"--http-restricted-api=x:k={SECRET}", "--log-verbose=1", f"--grpc-restricted-protocol=x:k={SECRET}"]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    yield process
    process.kill()
    process.communicate()


def arguments(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/cmdline").read_text()


def test_a_secret_is_overwritten_in_the_process_list_and_nothing_else_is(child: subprocess.Popen[str]) -> None:
    before = arguments(child)
    assert before.count(SECRET) == 2
    assert hide_from_process_list(child.pid, SECRET) is True
    assert arguments(child) == before.replace(SECRET, "*" * 16)


def test_the_process_goes_on_with_what_it_has_copied(child: subprocess.Popen[str]) -> None:
    hide_from_process_list(child.pid, SECRET)
    said, _ = child.communicate("\n", timeout=20)
    assert said == f"--http-restricted-api=x:k={SECRET}\n"
    assert child.returncode == 0


def test_a_command_with_spaces_and_parentheses_in_its_name_is_read_right(tmp_path: Path) -> None:
    command = tmp_path / "a b) 1 2 (c"
    command.symlink_to("/bin/sh")
    process = subprocess.Popen(
        [command, "-c", "echo up; read _", SECRET], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    assert hide_from_process_list(process.pid, SECRET) is True
    assert SECRET.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    process.communicate(b"\n", timeout=20)


def test_a_process_that_is_gone_hides_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert hide_from_process_list(process.pid, SECRET) is False
