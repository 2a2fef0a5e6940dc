# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.backpressure`: what an encoder tells the tokenizer of its deployment, in shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from flagtriton.protocol import runtime_files
from flagtriton.protocol.runtime_files import flag_path, remove_flags
from flagtriton_server.backend import backpressure
from flagtriton_server.backend.backpressure import BackpressureFlag


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime_files, "FLAG_FOLDER", tmp_path)
    return tmp_path


def test_all_steps_of_a_deployment_have_the_same_sign_and_no_other_deployment_has() -> None:
    assert flag_path("a_b_tokenizer", "1") == flag_path("a_b_encoder", "1") != flag_path("a_c_encoder", "1")
    assert flag_path("a_encoder", "1") != flag_path("a_encoder", "2")
    assert str(os.getppid()) in flag_path("a_encoder", "1").name  # another server's is another file


@pytest.mark.parametrize("bulk", [False, True])
def test_what_one_says_another_sees_of_that_priority_alone(bulk: bool) -> None:
    encoder, tokenizer = (BackpressureFlag(flag_path(f"tiny_{step}", "1")) for step in ("encoder", "tokenizer"))
    assert not tokenizer.is_set(bulk)
    encoder.set(bulk, True)
    assert (tokenizer.is_set(bulk), tokenizer.is_set(not bulk)) == (True, False)
    encoder.set(bulk, False)
    assert not tokenizer.is_set(bulk)


def test_another_process_sees_it(folder: Path) -> None:
    path = folder / "sign"
    BackpressureFlag(path).set(False, True)
    code = f"""
from pathlib import Path
from flagtriton_server.backend.backpressure import BackpressureFlag
sign = BackpressureFlag(Path({str(path)!r}))
print(sign.is_set(False), sign.is_set(True))
"""
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout == "True False\n"


def test_it_comes_down_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(backpressure, "time", SimpleNamespace(monotonic=lambda: clock.now))
    sign = BackpressureFlag(flag_path("tiny_encoder", "1"))
    sign.set(True, True)
    clock.now += 1.9
    assert sign.is_set(True)
    clock.now += 0.2
    assert not sign.is_set(True)


def test_another_containers_sign_is_another_and_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = flag_path("tiny_encoder", "1")
    with monkeypatch.context() as patched:
        patched.setattr(runtime_files, "_PID_NAMESPACE", folder)
        theirs = flag_path("tiny_encoder", "1")
    assert theirs != ours
    theirs = theirs.with_name(theirs.name.replace(f"_{os.getppid()}_", "_999999999_"))  # no process of ours
    theirs.write_bytes(b"")
    BackpressureFlag(ours)
    assert theirs.exists()


def test_nobody_else_may_read_it() -> None:
    path = flag_path("tiny_encoder", "1")
    BackpressureFlag(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_that_somebody_put_there_is_not_followed(folder: Path) -> None:
    target = folder / "precious"
    target.write_text("all there is")
    path = flag_path("tiny_encoder", "1")
    path.symlink_to(target)
    sign = BackpressureFlag(path)
    sign.set(False, True)
    assert sign.is_set(False)  # for itself
    assert target.read_text() == "all there is"


def test_signs_of_servers_that_have_ended_are_removed(folder: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    prefix = flag_path("a_encoder", "1").name.removesuffix(f"{os.getppid()}_1_a")
    theirs, other = folder / f"{prefix}{ended.pid}_1_a", folder / f"{prefix}x_1_a"
    for path in (theirs, other):
        path.write_bytes(b"")
    ours = flag_path("tiny_encoder", "1")
    BackpressureFlag(ours)
    BackpressureFlag(flag_path("other_encoder", "1"))
    assert (theirs.exists(), other.exists(), ours.exists()) == (False, True, True)


def test_the_last_to_leave_removes_the_file(folder: Path) -> None:
    path = flag_path("tiny_encoder", "1")
    encoder, tokenizer = BackpressureFlag(path), BackpressureFlag(path)
    encoder.close()
    assert path.exists()
    tokenizer.set(False, True)
    encoder.close()  # once more, for nothing
    assert path.exists()
    again = BackpressureFlag(path)  # an encoder that is loaded anew finds the tokenizer's
    assert again.is_set(False)
    again.close()
    tokenizer.close()
    assert list(folder.iterdir()) == []


def test_one_that_has_left_speaks_to_itself(folder: Path) -> None:
    sign = BackpressureFlag(folder / "sign")
    sign.set(True, True)
    sign.close()
    assert (sign.is_set(True), sign.is_set(False)) == (True, False)


def test_another_users_file_is_done_without_and_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = flag_path("tiny_encoder", "1")
    stale = folder / f"{runtime_files._namespace_prefix()}999999999_1_tiny"
    stale.touch()

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(backpressure.os, "open", refused)
        patched.setattr(Path, "unlink", refused)  # as in the sticky /dev/shm
        sign = BackpressureFlag(path)
        sign.set(False, True)
        assert sign.is_set(False)
        sign.close()
    assert stale.exists()
    assert not path.exists()


def test_each_user_has_files_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = flag_path("tiny_encoder", "1")
    monkeypatch.setattr(runtime_files.os, "getuid", lambda: 12345)
    assert flag_path("tiny_encoder", "1") != ours


def test_a_killed_servers_files_are_removed_with_it(folder: Path) -> None:
    ours = flag_path("tiny_encoder", "1")
    BackpressureFlag(ours)
    other = ours.with_name(ours.name.replace(f"_{os.getppid()}_", f"_{os.getppid()}0_"))
    other.touch()
    remove_flags(os.getppid())
    assert (ours.exists(), other.exists()) == (False, True)
