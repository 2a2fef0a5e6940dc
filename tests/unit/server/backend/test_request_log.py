# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.request_log`: a line of JSON a request, if somebody asked for it."""

from __future__ import annotations

import json
import os
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from flagtriton.protocol.runtime_files import REQUEST_LOG
from flagtriton_server.backend.request_log import RequestLog

SOURCE = {"deployment": "bge-m3", "step": "encoder"}


def test_none_is_kept_where_nobody_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUEST_LOG, raising=False)
    assert RequestLog.wanted(SOURCE) is None
    monkeypatch.setenv(REQUEST_LOG, "")
    assert RequestLog.wanted(SOURCE) is None


def test_lines_of_several_steps_stand_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "requests.jsonl"
    monkeypatch.setenv(REQUEST_LOG, str(path))
    logs = [RequestLog.wanted({**SOURCE, "step": step}) for step in ("tokenizer", "encoder")]
    for log in logs:
        assert log is not None
        log.write(code="ok", tokens=3, error=None)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["step"] for entry in entries] == ["tokenizer", "encoder"]
    for entry in entries:
        assert set(entry) == {"time", "deployment", "step", "code", "tokens"}
        at = datetime.fromisoformat(entry["time"])
        assert abs(datetime.now(timezone.utc) - at) < timedelta(minutes=1)


def test_the_file_is_its_owners_alone_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    RequestLog(path, SOURCE).write(id="a")
    RequestLog(path, SOURCE).write(id="b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_a_line_that_cannot_be_written_is_lost_and_no_more() -> None:
    log = RequestLog(Path("/dev/full"), SOURCE)
    log.write(id="a")
    os.close(log._descriptor)
    log.write(id="b")


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RequestLog(tmp_path / "nowhere" / "log", SOURCE)
