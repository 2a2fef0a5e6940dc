# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.tritonserver.admin`, against a real server of a few lines."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver.admin import SECRET_HEADER, Admin, ModelState, Reply
from flagtriton_tools.tritonserver.options import free_ports
from tests.support.servers.http_server import Answer, Asked, answering

CAUSE = "ValueError: model.safetensors is cut short"
TRACEBACK = f"{CAUSE}\n\nAt:\n  /srv/model.py(12): initialize\n"


class Server:
    """What is asked of a server, and what it is to answer by path; else it answers 200 and nothing."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, Answer | None] = {}

    def __call__(self, asked: Asked) -> Answer | None:
        self.asked.append(asked)
        return self.answers.get(asked.path, Answer())


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with answering(server) as url:
        yield url


def told(what: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(what).encode())


@pytest.mark.parametrize(
    "wrong", ["", "localhost:8000", "grpc://localhost:8001", "http://", "ftp://host", "http://a:0", "http://a:99999"]
)
def test_another_url_is_refused_with_the_forms_there_are(wrong: str) -> None:
    with pytest.raises(ToolError) as refused:
        Admin(wrong)
    assert str(refused.value) == f"the server's URL is {wrong!r}; expected http://host:port or https://host:port"


def test_every_model_is_told_by_name_with_its_state(server: Server, url: str) -> None:
    server.answers["/v2/repository/index"] = told(
        [
            {"name": "a", "version": "1", "state": "READY"},
            {"name": "b", "state": "UNAVAILABLE", "reason": "unloaded"},
            {"name": "c"},
        ]
    )
    assert Admin(url).states() == {
        "a": ModelState("a", "READY", versions=("1",)),
        "b": ModelState("b", "UNAVAILABLE", "unloaded"),
        "c": ModelState("c"),
    }
    (asked,) = server.asked
    assert (asked.method, asked.body) == ("POST", b"{}")


def version(number: str, state: str, reason: str = "") -> dict[str, str]:
    return {"name": "a", "version": number, "state": state, "reason": reason}


GONE = ("UNAVAILABLE", "unloaded")


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ([("1", "READY"), ("2", "READY")], ModelState("a", "READY", "", ("1", "2"))),
        ([("1", "READY"), ("2", "UNAVAILABLE", "unloaded")], ModelState("a", "READY", "", ("1",))),
        ([("1", "UNAVAILABLE", "unloaded"), ("2", "READY")], ModelState("a", "READY", "", ("2",))),
        ([("1", "UNLOADING", "unloaded"), ("2", "LOADING")], ModelState("a", "LOADING")),
        ([("1", "UNAVAILABLE", "broken"), ("2", "UNAVAILABLE", "unloaded")], ModelState("a", "UNAVAILABLE", "broken")),
        ([("1", "UNAVAILABLE", "unloaded"), ("2", "UNAVAILABLE", "broken")], ModelState("a", "UNAVAILABLE", "broken")),
        ([("1", "UNAVAILABLE", "unloaded"), ("2", "UNAVAILABLE", "unloaded")], ModelState("a", *GONE)),
    ],
)
def test_a_model_stands_as_the_best_of_its_versions(
    server: Server, url: str, index: list[tuple[str, ...]], expected: ModelState
) -> None:
    server.answers["/v2/repository/index"] = told([version(*each) for each in index])
    assert Admin(url).states() == {"a": expected}


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_a_slash_at_the_end_of_a_url_is_no_part_of_it(server: Server, url: str, slashes: str) -> None:
    admin = Admin(url + slashes)
    admin.get("/v2")
    assert (admin.url, server.asked[0].path) == (url, "/v2")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, b'{"error": "no such path"}'),
        Answer(501, b"<html>Unsupported method</html>"),
        Answer(200, b"[1]"),
        Answer(200, b'[{"state": "READY"}]'),
        Answer(200, b""),
    ],
)
def test_what_is_not_tritons_http_is_told(server: Server, url: str, answer: Answer) -> None:
    server.answers["/v2/repository/index"] = answer
    with pytest.raises(ToolError, match=f"{url} is not Triton's HTTP address; it answered"):
        Admin(url).states()


@pytest.mark.parametrize(
    ("state", "ready"), [("READY", True), ("LOADING", False), ("UNLOADING", False), ("UNAVAILABLE", False), ("", False)]
)
def test_a_model_is_ready_by_its_state_alone(state: str, ready: bool) -> None:
    assert ModelState("m", state).is_ready is ready


@pytest.mark.parametrize("reason", [TRACEBACK, TRACEBACK.replace("\n", "\\n"), CAUSE, f"  {CAUSE}\n"])
def test_a_states_cause_is_its_reason_without_the_traceback(reason: str) -> None:
    # Triton's index escapes the line breaks once more.
    assert ModelState("m", "UNAVAILABLE", reason).cause == CAUSE


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (json.dumps({"error": TRACEBACK}).encode(), CAUSE),
        (json.dumps({"error": "busy"}).encode(), "busy"),
        (json.dumps({"detail": "busy"}).encode(), '{"detail": "busy"}'),
        (b'["busy"]', '["busy"]'),
        (b"<html>Bad gateway</html>", "<html>Bad gateway</html>"),
        (b"x" * 300, "x" * 200),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"", "status 502"),
    ],
)
def test_an_answers_error_is_tritons_sentence_or_how_the_body_begins(body: bytes, error: str) -> None:
    assert Reply(502, body).error == error


@pytest.mark.parametrize("operation", ["load", "unload"])
def test_a_model_is_named_in_the_path_however_it_is_called(server: Server, url: str, operation: str) -> None:
    getattr(Admin(url), operation)("a b%")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", f"/v2/repository/models/a%20b%25/{operation}")


@pytest.mark.parametrize("operation", ["load", "unload"])
def test_what_the_server_refuses_is_told_without_the_traceback(server: Server, url: str, operation: str) -> None:
    said = f"load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: {TRACEBACK}"
    server.answers[f"/v2/repository/models/m/{operation}"] = told({"error": said}, 400)
    with pytest.raises(ToolError) as refused:
        getattr(Admin(url), operation)("m")
    assert str(refused.value) == f"{url}: {said.partition(chr(10))[0]}"


OPERATIONS: dict[str, Callable[[Admin], object]] = {
    "/v2/repository/index": lambda admin: admin.states(),
    "/v2/repository/models/m/load": lambda admin: admin.load("m"),
    "/v2/repository/models/m/unload": lambda admin: admin.unload("m"),
}


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("path", OPERATIONS)
def test_a_missing_secret_is_told_with_what_to_do(server: Server, url: str, path: str, status: int) -> None:
    server.answers[path] = told({"error": "This API is restricted"}, status)
    with pytest.raises(ToolError) as refused:
        OPERATIONS[path](Admin(url))
    assert str(refused.value) == (
        f"{url} wants its secret for this (This API is restricted); pass --secret-file, or run this as the user who "
        "runs `flagtriton serve`"
    )


@pytest.mark.parametrize("path", OPERATIONS)
def test_the_secret_goes_with_what_needs_it(server: Server, url: str, path: str) -> None:
    server.answers["/v2/repository/index"] = told([])
    OPERATIONS[path](Admin(url, "open sesame"))
    assert server.asked[0].headers[SECRET_HEADER] == "open sesame"


def test_without_a_secret_none_is_sent(server: Server, url: str) -> None:
    Admin(url).load("m")
    assert SECRET_HEADER not in server.asked[0].headers


def test_a_secret_is_not_shown_with_its_admin() -> None:
    assert "open sesame" not in repr(Admin("http://a:1", "open sesame"))


def test_a_loaded_models_configuration_is_told(server: Server, url: str) -> None:
    server.answers["/v2/models/a%20b/config"] = told({"name": "a b", "backend": "python"})
    assert Admin(url).config("a b") == {"name": "a b", "backend": "python"}
    assert server.asked[0].method == "GET"


def test_what_is_not_loaded_has_no_configuration(server: Server, url: str) -> None:
    server.answers["/v2/models/m/config"] = told({"error": "Request for unknown model: 'm' is not found"}, 400)
    assert Admin(url).config("m") is None


def nobody() -> str:
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def test_a_server_that_is_not_there_has_no_states_and_no_configuration() -> None:
    admin = Admin(nobody())
    assert (admin.states(), admin.config("m")) == (None, None)


def test_a_server_that_is_not_there_loads_nothing_and_says_so() -> None:
    url = nobody()
    with pytest.raises(ToolError) as refused:
        Admin(url).load("m")
    assert str(refused.value) == f"{url}: no answer"


def test_a_server_that_hangs_up_has_not_answered(server: Server, url: str) -> None:
    server.answers["/v2/health/live"] = None
    assert Admin(url).get("/v2/health/live").status == 0


def test_a_server_that_speaks_no_http_has_not_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def speak() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"220 smtp ready\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        assert Admin(f"http://127.0.0.1:{other.getsockname()[1]}").get("/v2").status == 0
        thread.join()


def test_a_server_that_is_silent_has_not_answered_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert Admin(url, timeout_s=0.05).states() is None
        assert Admin(url).post("/v2/models/m/generate", {}, timeout_s=0.05).status == 0


def test_loading_takes_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []

    def send(_: Admin, path: str, body: bytes | None, timeout_s: float | None) -> Reply:
        waits.append(timeout_s)
        return Reply(200, b"[]")

    monkeypatch.setattr(Admin, "_send", send)
    admin = Admin("http://a:1", timeout_s=7.0)
    admin.load("m")
    admin.unload("m")
    admin.states()
    admin.get("/v2")
    assert waits == [None, 7.0, 7.0, 7.0]


def test_no_proxy_stands_between_this_machine_and_its_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, nobody())
    monkeypatch.delenv("no_proxy", raising=False)
    assert Admin(url).get("/v2/health/live").status == 200


@pytest.fixture
def https(server: Server, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Yield the URL of an encrypted server, and its authority's file."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with answering(server, context) as url:
        yield url, str(tmp_path / "authority.pem")


def test_an_encrypted_server_is_trusted_by_its_authority(server: Server, https: tuple[str, str]) -> None:
    url, authority = https
    Admin(url, "open sesame", ca_file=authority).load("m")
    assert server.asked[0].headers[SECRET_HEADER] == "open sesame"


def test_a_secret_is_not_told_to_a_server_of_an_unknown_authority(server: Server, https: tuple[str, str]) -> None:
    url, _ = https
    admin = Admin(url, "open sesame")
    reply = admin.get("/v2")
    assert (reply.status, "certificate verify failed" in reply.error) == (0, True)
    with pytest.raises(ToolError, match="no answer"):
        admin.load("m")
    assert server.asked == []
