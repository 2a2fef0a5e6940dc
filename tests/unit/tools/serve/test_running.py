# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.running`: which servers serve a repository, and what commands say of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flagtriton_tools.serve import running
from flagtriton_tools.serve.running import announced, how_to_load, how_to_serve, servers_of, still_served, with_url
from flagtriton_tools.tritonserver.admin import Admin, Reply
from flagtriton_tools.tritonserver.options import ServeOptions

URL = "http://127.0.0.1:9000"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(running, "_admin", lambda url: Admin(url, timeout_s=0.5))
    return tmp_path / "state" / "flagtriton"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Return the paths that servers answer with 200, by URL; others do not answer."""
    known: dict[str, set[str]] = {}

    class Known(Admin):
        def _send(self, path: str, body: bytes | None, timeout_s: float | None) -> Reply:
            return Reply(200 if path in known.get(self.url, ()) else 0)

    monkeypatch.setattr(running, "_admin", Known)
    return known


def options(repository: Path) -> ServeOptions:
    return ServeOptions(repository, http_port=9000)


def test_a_server_is_found_by_its_repository_while_it_runs(tmp_path: Path, answering: dict[str, set[str]]) -> None:
    answering[URL] = {"/v2/health/live"}
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    with announced(options(tmp_path / "repo")):
        assert servers_of(tmp_path / "repo") == servers_of(tmp_path / "link") == [URL]
        assert servers_of(tmp_path / "other") == []
    assert servers_of(tmp_path / "repo") == []


def test_a_server_that_does_not_answer_is_not_found(tmp_path: Path) -> None:
    with announced(options(tmp_path / "repo")):
        assert servers_of(tmp_path / "repo") == []


def test_what_a_killed_server_has_left_is_passed_over(
    tmp_path: Path, state: Path, answering: dict[str, set[str]]
) -> None:
    answering[URL] = {"/v2/health/live"}
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    state.mkdir(parents=True)
    for number, text in enumerate(
        (json.dumps({"repository": str(tmp_path), "url": URL, "pid": ended.pid}), "[]", "{", '{"pid": "x"}')
    ):
        (state / f"server-{number}.json").write_text(text, "utf-8")
    assert servers_of(tmp_path) == []
    (state / "server-9000.json").write_text(json.dumps({"repository": str(tmp_path), "url": URL, "pid": os.getpid()}))
    assert servers_of(tmp_path) == [URL]


def test_without_a_place_for_the_file_a_server_runs_unannounced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with announced(options(tmp_path)):
        assert servers_of(tmp_path) == []


def test_what_was_added_is_loaded_by_the_server_that_runs_or_served(
    tmp_path: Path, answering: dict[str, set[str]]
) -> None:
    answering[URL] = {"/v2/health/live"}
    repository = tmp_path / "my models"
    serve = f"serve it with: flagtriton serve --repository '{repository}'"
    assert how_to_serve(repository, "m3", is_version=False) == [serve]
    assert how_to_serve(repository, "m3", is_version=True) == [
        serve,
        "a running server goes over to it with: flagtriton load m3",
    ]
    assert how_to_load(repository, "m3") == "flagtriton load m3"
    with announced(options(repository)):
        load = f"flagtriton load m3 --url {URL}"
        assert how_to_serve(repository, "m3", is_version=True) == [f"the running server takes it with: {load}"]
        assert how_to_load(repository, "m3") == load


def test_what_was_removed_and_still_answers_is_told(tmp_path: Path, answering: dict[str, set[str]]) -> None:
    answering[URL] = {"/v2/health/live", "/v2/models/m3/ready"}
    answering["http://localhost:8000"] = {"/v2/models/m3/ready"}
    with announced(options(tmp_path)):
        assert still_served(tmp_path, "m3") == [
            f"m3 is still served at {URL}; end that with: flagtriton unload m3 --url {URL}"
        ]
        assert still_served(tmp_path, "gone") == []
    # Somebody else's server on the usual port may have it, too.
    assert still_served(tmp_path, "m3") == [
        "m3 is still served at http://localhost:8000; end that with: flagtriton unload m3"
    ]


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("http://localhost:8000", "flagtriton load m3"),
        ("http://127.0.0.1:8000", "flagtriton load m3"),
        (URL, f"flagtriton load m3 --url {URL}"),
        ("http://[::1]:8000", "flagtriton load m3 --url 'http://[::1]:8000'"),
    ],
)
def test_a_command_names_the_server_unless_it_is_the_usual_one(url: str, command: str) -> None:
    assert with_url("flagtriton load m3", url) == command
