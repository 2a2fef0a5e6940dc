# SPDX-License-Identifier: Apache-2.0
"""`process_tuning.keep_freed_memory`, in processes of their own: the C library cannot be set back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from flagtriton_server.backend import process_tuning as memory

ALLOCATE = """
import ctypes, resource
from flagtriton_server.backend.process_tuning import keep_freed_memory

MEGABYTES = 40
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
{call}
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(MEGABYTES << 20)
    ctypes.memset(block, 1, MEGABYTES << 20)
    libc.free(block)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(after - before)
"""

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")


def faults_of_the_third_block(call: str) -> int:
    """Return how many pages the system had to give for a block of 40 MB, the third of its size."""
    script = ALLOCATE.format(call=call)
    return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


@glibc
def test_a_block_that_was_freed_is_used_again_without_asking_the_system() -> None:
    # 40 MB are 10,240 pages of 4 KiB, or 20 of 2 MiB; to take them from what was freed costs none
    assert faults_of_the_third_block("assert keep_freed_memory()") < 10


@glibc
def test_unless_told_the_system_gives_a_blocks_pages_anew() -> None:
    # glibc itself learns to keep blocks up to 32 MB
    assert faults_of_the_third_block("") >= 10


def test_a_c_library_that_cannot_be_told_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert memory.keep_freed_memory() is False
