# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.health`: what probes are told, over HTTP and as a file."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve.health import READY, Health, served_health
from flagtriton_tools.tritonserver.options import free_ports


def healthy(file: Path | None = None, *names: str) -> Health:
    """Return the health of a server that is ready, and so are its deployments: `a` unless named."""
    health = Health(file)
    health.server_is(READY)
    for name in names or ("a",):
        health.deployment_is(name, READY)
    return health


# What is so.


def test_a_server_that_starts_is_not_ready() -> None:
    health = Health()
    assert health.to_json() == {"ready": False, "server": "starting", "restarts": 0, "deployments": {}}


def test_a_ready_server_without_a_ready_deployment_is_not_ready() -> None:
    health = Health()
    health.server_is(READY)
    assert not health.is_ready()


def test_a_server_is_ready_with_its_deployments() -> None:
    assert healthy().is_ready()
    assert healthy().is_ready("a")


@pytest.mark.parametrize("state", ["starting", "draining", "restarting"])
def test_nothing_is_ready_where_the_server_is_not(state: str) -> None:
    health = healthy()
    health.server_is(state, restarts=3)
    assert not health.is_ready()
    assert not health.is_ready("a")
    assert (health.to_json()["server"], health.to_json()["restarts"]) == (state, 3)


@pytest.mark.parametrize("state", ["recovering", "failing", "failed"])
def test_one_deployment_that_is_not_ready_is_enough_and_does_not_touch_the_others(state: str) -> None:
    health = healthy(None, "a", "b")
    health.deployment_is("b", state, "its process has died")
    assert [health.is_ready(name) for name in (None, "a", "b")] == [False, True, False]


def test_a_deployment_that_nobody_knows_is_not_ready() -> None:
    assert not healthy().is_ready("b")


def test_what_is_said_again_is_not_new() -> None:
    health = Health()
    said = [("failing", "x"), ("failing", "x"), ("failing", "y"), (READY, ""), (READY, "")]
    assert [health.deployment_is("a", *each) for each in said] == [True, False, True, True, False]


def test_recoveries_are_counted_and_kept() -> None:
    health = healthy()
    for _ in range(2):
        health.deployment_is("a", "recovering", "dead")
        health.deployment_is("a", READY, recovered=True)
    health.deployment_is("a", READY)
    assert health.to_json()["deployments"]["a"]["recoveries"] == 2


def test_since_is_when_it_last_changed() -> None:
    health = Health()
    began = time.time()
    health.deployment_is("a", "failing", "x")
    first = health.to_json()["deployments"]["a"]["since"]
    assert began <= first <= time.time()
    health.deployment_is("a", "failing", "x")
    assert health.to_json()["deployments"]["a"]["since"] == first
    time.sleep(0.002)
    health.deployment_is("a", READY)
    assert health.to_json()["deployments"]["a"]["since"] > first


def test_what_is_no_longer_served_is_not_told_of() -> None:
    health = healthy(None, "a", "b")
    health.deployment_is("b", "failing", "x")
    health.forget("b")
    health.forget("never there")
    assert health.is_ready()
    assert list(health.to_json()["deployments"]) == ["a"]


def test_deployments_are_told_in_order() -> None:
    assert list(healthy(None, "c", "a", "b").to_json()["deployments"]) == ["a", "b", "c"]


# The file.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "healthy"


def test_the_file_exists_while_everything_is_ready(file: Path) -> None:
    health = healthy(file)
    assert json.loads(file.read_text())["ready"] is True
    health.deployment_is("a", "recovering", "dead")
    assert not file.exists()
    health.deployment_is("a", READY, recovered=True)
    assert file.exists()
    health.server_is("draining")
    assert not file.exists()


def test_an_old_file_is_gone_from_the_start(file: Path) -> None:
    file.write_text("of a launcher that was killed")
    Health(file)
    assert not file.exists()


def test_each_beat_writes_the_file_anew(file: Path) -> None:
    health = healthy(file)
    os.utime(file, (1000, 1000))
    health.beat()
    assert file.stat().st_mtime > time.time() - 60


def test_a_beat_brings_back_a_file_that_somebody_removed(file: Path) -> None:
    health = healthy(file)
    file.unlink()
    health.beat()
    assert file.exists()


def test_a_beat_makes_no_file_where_something_is_not_ready(file: Path) -> None:
    health = healthy(file)
    health.deployment_is("a", "failing", "x")
    health.beat()
    assert not file.exists()


def test_the_file_is_never_seen_half_written(file: Path) -> None:
    health = healthy(file)
    with file.open() as opened_before:
        health.beat()
        assert json.loads(opened_before.read())["ready"] is True  # another file has taken its name
    assert [path.name for path in file.parent.iterdir()] == ["healthy"]


def test_the_file_is_gone_at_the_end(file: Path) -> None:
    health = healthy(file)
    health.close()
    assert not file.exists()
    health.close()


def test_forgetting_what_fails_brings_back_the_file(file: Path) -> None:
    health = healthy(file, "a", "b")
    health.deployment_is("b", "failing", "x")
    health.forget("b")
    assert file.exists()


def test_two_threads_may_write_the_file_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    health = healthy(file)
    replace, threads = Path.replace, [threading.Thread(target=health.beat)]

    def slowly(source: Path, target: Path) -> Path:
        while threads:  # the first one waits for another, which is done before, or else for half a second
            other = threads.pop()
            other.start()
            other.join(0.5)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", slowly)
    health.beat()
    assert file.exists()


def test_a_file_in_a_folder_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="gone"):
        healthy(tmp_path / "gone" / "healthy")


def test_without_a_file_none_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    healthy().close()
    assert list(tmp_path.iterdir()) == []


# Over HTTP.


@pytest.fixture(autouse=True)
def prompt_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers look more often whether they are to end."""
    monkeypatch.setattr(BaseServer.serve_forever, "__defaults__", (0.01,))


@pytest.fixture
def health() -> Health:
    return healthy(None, "a", "b/c d")


@pytest.fixture
def url(health: Health) -> Iterator[str]:
    (port,) = free_ports(1)
    with served_health(health, "127.0.0.1", port):
        yield f"http://127.0.0.1:{port}"


def ask(url: str) -> tuple[int, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as reply:
            assert reply.headers["Content-Type"] == "application/json"
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize("path", ["/healthz", "/healthz/", "/healthz?verbose=1"])
def test_healthz_tells_everything_with_200_where_all_is_ready(url: str, health: Health, path: str) -> None:
    assert ask(f"{url}{path}") == (200, health.to_json())


def test_healthz_tells_what_is_not_ready_with_503(url: str, health: Health) -> None:
    health.deployment_is("a", "recovering", "the process of a_encoder has died")
    status, body = ask(f"{url}/healthz")
    assert (status, body["ready"]) == (503, False)
    told = body["deployments"]["a"]
    assert (told["state"], told["reason"]) == ("recovering", "the process of a_encoder has died")


def test_one_deployment_can_be_asked_for(url: str, health: Health) -> None:
    health.deployment_is("a", "failing", "no answer")
    status, body = ask(f"{url}/healthz/a")
    assert (status, body["ready"], body["state"], body["reason"]) == (503, False, "failing", "no answer")
    status, body = ask(f"{url}/healthz/b%2Fc%20d")
    assert (status, body["ready"], body["state"]) == (200, True, READY)


def test_a_deployment_of_a_server_that_drains_is_told_with_503(url: str, health: Health) -> None:
    health.server_is("draining")
    assert ask(f"{url}/healthz/a")[0] == 503


def test_a_deployment_that_is_not_served_is_told_with_404(url: str) -> None:
    assert ask(f"{url}/healthz/gone") == (404, {"error": "gone is not served here"})


@pytest.mark.parametrize("path", ["/", "/health", "/healthzz", "/v2/health/ready"])
def test_another_path_is_told_what_there_is(url: str, path: str) -> None:
    assert ask(f"{url}{path}") == (404, {"error": "ask for /healthz, /healthz/DEPLOYMENT, /livez or /metrics"})


def test_livez_says_200_whatever_the_server_does(url: str, health: Health) -> None:
    health.server_is("restarting", restarts=4)
    assert ask(f"{url}/livez") == (200, {"alive": True})


def test_livez_gives_up_on_a_deployment_that_is_lost_for_too_long(
    url: str, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("flagtriton_tools.serve.health.time.monotonic", lambda: clock[0])
    health.deployment_is("never", "failed", "it does not load")
    health.deployment_is("b", READY)
    clock[0] += 1_000
    assert ask(f"{url}/livez?within=60") == (200, {"alive": True})  # what never answered is no reason to begin anew
    health.deployment_is("b", "recovering", "its process has died")
    clock[0] += 40
    health.deployment_is("b", "failing", "another try in 8 s")  # still the same absence
    clock[0] += 19
    assert ask(f"{url}/livez?within=60")[0] == 200
    clock[0] += 2
    assert ask(f"{url}/livez?within=60") == (503, {"alive": False})
    assert ask(f"{url}/livez") == (200, {"alive": True})
    health.deployment_is("b", READY)
    assert ask(f"{url}/livez?within=60")[0] == 200
    assert "lost_at" not in ask(f"{url}/healthz/b")[1]


def test_livez_wants_a_number(url: str) -> None:
    assert ask(f"{url}/livez?within=soon") == (400, {"error": "within is no number of seconds"})


def test_a_client_that_says_nothing_keeps_no_other_waiting(url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))):
        assert ask(f"{url}/livez")[0] == 200


def test_probes_are_written_nowhere(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    ask(f"{url}/healthz")
    assert capfd.readouterr() == ("", "")


def test_a_port_that_is_taken_is_named_with_its_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = rf"--health-port {port} on 127\.0\.0\.1: Address already in use; choose another"
        with pytest.raises(ToolError, match=said), served_health(Health(), "127.0.0.1", port):
            raise AssertionError


def test_the_port_is_free_again_afterwards() -> None:
    (port,) = free_ports(1)
    for _ in range(2):
        with served_health(Health(), "127.0.0.1", port):
            assert ask(f"http://127.0.0.1:{port}/livez")[0] == 200
            assert "healthz" in [thread.name for thread in threading.enumerate()]
        assert "healthz" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_health_is_told_over_ipv6_too() -> None:
    (port,) = free_ports(1)
    with served_health(Health(), "::1", port):
        assert ask(f"http://[::1]:{port}/livez")[0] == 200
