# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.runtime_files`: only this user may write to it; its links have ASCII names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flagtriton.protocol import runtime_files as module
from flagtriton.protocol.runtime_files import link_to, private_folder, readable_path

ASCII_NAMES = """
import ctypes, os, sys
assert sys.getfilesystemencoding() != "utf-8"
from flagtriton.protocol import runtime_files
from pathlib import Path
runtime_files.TEMPORARY = Path(sys.argv[1])
folder = bytes.fromhex(sys.argv[2]).decode("utf-8")
assert not os.path.isdir(folder)
read = runtime_files.readable_path(folder)
print(read, Path(read, "config.json").read_text())
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "TEMPORARY", tmp_path)
    return tmp_path


def test_the_folder_is_made_once_for_this_user_alone(temporary: Path) -> None:
    folder = private_folder()
    assert folder == temporary / f"flagtriton-{os.getuid()}" == private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "open to others"])
def test_a_folder_that_others_could_change_is_refused(temporary: Path, kind: str) -> None:
    place = temporary / f"flagtriton-{os.getuid()}"
    if kind == "link":
        place.symlink_to(temporary)
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(PermissionError, match="alone can write to; remove it"):
        private_folder()


def test_the_same_path_has_the_same_link_and_others_have_others(temporary: Path) -> None:
    one, two = temporary / "é", temporary / "ü"
    assert link_to(one) == link_to(one) != link_to(two)
    assert link_to(one).readlink() == one
    assert str(link_to(one)).isascii()


def test_what_can_be_opened_is_left_as_it_is(temporary: Path) -> None:
    (temporary / "é").mkdir()
    for path in (str(temporary / "é"), "BAAI/bge-m3", str(temporary / "gone")):
        assert readable_path(path) == path
    assert [path.name for path in temporary.iterdir()] == ["é"]


def test_an_interpreter_with_ascii_names_reads_a_folder_through_a_link(temporary: Path) -> None:
    folder = temporary / "bértü 模型"
    folder.mkdir()
    (folder / "config.json").write_text("{}", "utf-8")
    # As Triton's stub, which is isolated and does not look at the locale.
    command = [sys.executable, "-X", "utf8=0", "-c", ASCII_NAMES, str(temporary), str(folder).encode().hex()]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{temporary}/flagtriton-{os.getuid()}/b_rt_")
    assert done.stdout.endswith(" {}\n")
