# SPDX-License-Identifier: Apache-2.0
"""`backend.response_budget`: answers that shared memory has no room for are refused before they are sent."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from flagtriton_server.backend.response_budget import ResponseBudget

MB = 1 << 20


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Shared memory whose free bytes a test sets."""
    shared = SimpleNamespace(bytes=64 * MB)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=shared.bytes // 4096, f_frsize=4096))
    return shared


def test_an_answer_that_fits_may_be_sent(free: SimpleNamespace) -> None:
    assert ResponseBudget().refusal(62 * MB) is None


def test_one_that_does_not_is_refused_and_says_what_to_do(free: SimpleNamespace) -> None:
    refusal = ResponseBudget().refusal(64 * MB)  # the backend's pool grows by more than is asked for
    assert refusal is not None
    assert refusal.code == "INTERNAL"
    assert str(refusal).startswith(f"/dev/shm has {64 * MB} bytes free, and this answer needs {64 * MB}; ")
    assert "--shm-size" in str(refusal)


def test_memory_that_an_answer_has_had_stays_there_for_the_next(free: SimpleNamespace) -> None:
    room = ResponseBudget()
    assert room.refusal(40 * MB) is None
    free.bytes = 0
    assert room.refusal(40 * MB) is None
    assert room.refusal(40 * MB + 1) is not None
