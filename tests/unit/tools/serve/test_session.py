# SPDX-License-Identifier: Apache-2.0
"""`serve.session`: stopping, starting again, giving up; servers have no process, the clock stands still."""

from __future__ import annotations

import json
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve import session as serving
from flagtriton_tools.serve.health import Health
from flagtriton_tools.serve.launcher import ServerStoppedError
from flagtriton_tools.tritonserver.options import free_ports
from tests.support.fake_serving import FakeSupervisor, Run
from tests.support.fake_triton import FakeAdmin, FakeClock, FakeServer, FakeTriton, deployment

LAST_WORDS = "; see server.log, which ends:\n  E1122 gone"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(serving, "time", clock)
    return clock


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton().serve(deployment("plain"), deployment("m3", "encoder-only-m3"))


@pytest.fixture
def admin(triton: FakeTriton) -> FakeAdmin:
    return FakeAdmin(triton=triton)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, admin: FakeAdmin, clock: FakeClock) -> Run:
    return Run(monkeypatch, admin, clock)


def test_a_ready_server_is_told_with_its_addresses_and_its_log(run: Run) -> None:
    run(KeyboardInterrupt(), every_s=3.5)
    assert run.lines[:2] == [
        "ready: tritonserver 2.51.0, http://127.0.0.1:8000, grpc://127.0.0.1:8001",
        "metrics: http://127.0.0.1:8002/metrics\nlog: server.log; stop with Ctrl-C",
    ]
    assert (run.healths[0]["server"], run.healths[0]["every_s"]) == ("ready", 3.5)


def test_a_server_that_is_interrupted_is_drained_and_the_exit_code_is_0(run: Run, triton: FakeTriton) -> None:
    assert run(KeyboardInterrupt()) == 0
    assert sorted(triton.calls) == ["unload m3", "unload m3_score", "unload plain"]
    assert run.lines[2:] == ["stopping; again to kill …"]


def test_a_drained_server_is_given_four_seconds_for_idle_connections(run: Run) -> None:
    run(KeyboardInterrupt())
    assert run.servers[0].stops == [4.0]


def test_probes_are_told_that_it_drains(run: Run, triton: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []
    monkeypatch.setattr(Health, "server_is", lambda _, state, restarts=0: states.append(state))
    run(KeyboardInterrupt())
    assert states == ["ready", "draining"]


def test_requests_that_are_not_answered_in_the_grace_period_are_told_of(run: Run, triton: FakeTriton) -> None:
    triton.unloading_polls = {"plain": 10_000}
    assert run(KeyboardInterrupt(), grace_period_s=3.0) == 0
    assert run.lines[2:] == ["stopping; again to kill …", "requests were still in flight after 3 s"]
    assert run.servers[0].stops == [4.0]


def test_a_server_that_cannot_be_drained_is_stopped_all_the_same(run: Run, triton: FakeTriton) -> None:
    triton.answers = False
    assert run(KeyboardInterrupt()) == 0
    assert run.lines[3] == "could not be drained: http://triton:8000: no answer"
    assert run.servers[0].stops == [4.0]


def test_a_second_interruption_ends_the_draining(run: Run, triton: FakeTriton, clock: FakeClock) -> None:
    triton.unloading_polls = {"plain": 10_000}

    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.at(1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(KeyboardInterrupt())
    assert clock.now - 1000 <= 1.1


def test_a_server_that_dies_is_started_again_with_what_it_served(run: Run) -> None:
    assert run((137, 5), KeyboardInterrupt()) == 0
    assert run.launcher.begun == [([], False), (["m3", "plain"], True)]
    assert run.lines[2] == (
        f"tritonserver ended by itself with code 137{LAST_WORDS}\nstarting it again in 1 s (1 of 5)"
    )
    assert [(told["server"], told["restarts"]) for told in run.healths] == [("ready", 0), ("ready", 1)]


def test_probes_are_told_that_it_is_started_again(run: Run, clock: FakeClock, tmp_path: Path) -> None:
    file = tmp_path / "healthy"
    there: list[bool] = []
    clock.at(5.5, lambda: there.append(file.exists()))
    run((137, 5), KeyboardInterrupt(), health_file=file)
    assert there == [False]


def test_waits_double_between_servers_that_die(run: Run, clock: FakeClock) -> None:
    assert run(*[(139, 1)] * 5, KeyboardInterrupt()) == 0
    assert clock.slept[:5] == [1, 2, 4, 8, 16]


def test_no_wait_is_longer_than_a_minute(run: Run, clock: FakeClock) -> None:
    run(*[(139, 1)] * 8, KeyboardInterrupt(), max_restarts=8)
    assert clock.slept[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_after_the_last_restart_the_code_is_the_servers_and_its_last_words_are_told(run: Run, most: int) -> None:
    assert run(*[(139, 1)] * (most + 1), max_restarts=most) == 139
    assert len(run.launcher.begun) == most + 1
    assert run.lines[-1] == f"tritonserver ended by itself with code 139{LAST_WORDS}"


def test_a_server_that_ran_ten_minutes_begins_anew(run: Run, clock: FakeClock) -> None:
    assert run((137, 1), (137, 1), (137, 601), (137, 1), KeyboardInterrupt(), max_restarts=2) == 0
    assert clock.slept[:4] == [1, 2, 1, 2]
    waits = [line.rpartition("starting it again in ")[2] for line in run.lines if "starting it again" in line]
    assert waits == ["1 s (1 of 2)", "2 s (2 of 2)", "1 s (1 of 2)", "2 s (2 of 2)"]


def test_a_server_that_ran_less_than_ten_minutes_does_not(run: Run) -> None:
    assert run((137, 1), (137, 599), max_restarts=1) == 137


def test_a_first_start_that_fails_is_the_users_to_see_to(run: Run, clock: FakeClock) -> None:
    failure = ServerStoppedError("no model could be loaded", 1)
    with pytest.raises(ServerStoppedError) as stopped:
        run(servers=[failure])
    assert stopped.value is failure
    assert (clock.slept, run.lines) == ([], [])


def test_a_later_start_that_fails_is_tried_again(run: Run, clock: FakeClock) -> None:
    options = run.options
    servers = [FakeServer(options=options), ServerStoppedError("it ended before it was ready", 3), FakeServer()]
    assert run((137, 1), KeyboardInterrupt(), servers=servers) == 0
    assert clock.slept[:2] == [1, 2]
    said = "tritonserver ended by itself with code 3: it ended before it was ready"
    assert f"{said}\nstarting it again in 2 s (2 of 5)" in run.lines
    assert run.launcher.begun[2] == (["m3", "plain"], True)


def test_a_later_start_that_fails_for_good_gives_its_code(run: Run) -> None:
    servers = [FakeServer(), ServerStoppedError("why", 3)]
    assert run((137, 1), servers=servers, max_restarts=1) == 3
    assert run.lines[-1] == "tritonserver ended by itself with code 3: why"


def test_what_the_user_is_to_mend_is_not_tried_again(run: Run) -> None:
    with pytest.raises(ToolError, match="not ready within 600 s"):
        run((137, 1), servers=[FakeServer(), ToolError("not ready within 600 s")])


def test_an_interruption_between_two_servers_ends_the_command(run: Run, clock: FakeClock) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.at(1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run((137, 0))


def test_a_server_that_is_interrupted_once_it_says_how_is_drained(
    run: Run, triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing was looked at before.
    everything = FakeSupervisor.ensembles
    monkeypatch.setattr(FakeSupervisor, "ensembles", ())
    look = lambda _: monkeypatch.setattr(FakeSupervisor, "ensembles", everything)  # noqa: E731
    monkeypatch.setattr(FakeSupervisor, "look_for_changes", look, raising=False)

    class Lines(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            if line.endswith("stop with Ctrl-C"):
                raise KeyboardInterrupt

    run.lines = Lines()
    code = None
    with suppress(KeyboardInterrupt):
        code = run((0, 0))
    assert code == 0
    assert sorted(triton.calls) == ["unload m3", "unload m3_score", "unload plain"]


# Probes and warnings.


def test_what_does_not_load_is_told_to_probes(run: Run) -> None:
    run(KeyboardInterrupt(), servers=[FakeServer({"broken": "OSError: no such checkpoint"})])
    told = run.healths[0]["deployments"]["broken"]
    assert (told["state"], told["reason"]) == ("failed", "OSError: no such checkpoint")
    assert run.healths[0]["ready"] is False


def test_what_did_not_load_at_first_is_tried_again_with_the_next_server(run: Run) -> None:
    run((137, 1), KeyboardInterrupt(), servers=[FakeServer({"broken": "no room"}), FakeServer()])
    names, _ = run.launcher.begun[1]
    assert names == [] or "broken" in names


def test_health_is_told_over_http_while_it_serves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    run.options = replace(run.options, health_port=port)
    seen: list[Any] = []

    def ask(_: FakeSupervisor) -> int:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/livez", timeout=20) as reply:
            seen.append(json.loads(reply.read()))
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeSupervisor, "run", ask)
    assert run(KeyboardInterrupt()) == 0
    assert seen == [{"alive": True}]


def test_the_health_file_is_gone_at_the_end(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "healthy"
    file.touch()
    run(KeyboardInterrupt(), health_file=file)
    assert not file.exists()


TLS = {"tls_certificate": Path("c"), "tls_key": Path("k")}
PLAIN = "; what they send travels in plain text"


@pytest.mark.parametrize(
    ("said", "warnings"),
    [
        ({}, []),
        (
            {"plain_http_host": "0.0.0.0"},
            [f"--http-host is 0.0.0.0: whoever reaches this machine can send requests without a password{PLAIN}"],
        ),
        (
            {"host": "0.0.0.0", **TLS},
            ["--host is 0.0.0.0: whoever reaches this machine can send requests without a password"],
        ),
        (
            {"host": "0.0.0.0", "open_admin": True, "plain_http_host": "127.0.0.1"},
            [
                "--host is 0.0.0.0: whoever reaches this machine can send requests, or load models, which is to run "
                f"code, without a password{PLAIN}"
            ],
        ),
    ],
)
def test_who_can_reach_the_server_is_told(run: Run, said: dict[str, Any], warnings: list[str]) -> None:
    run.options = replace(run.options, **said)
    run(KeyboardInterrupt())
    told = [line for line in run.lines if line.startswith("warning")]
    assert told == [f"warning: {warning}. docs/proxy.md puts TLS and tokens before it" for warning in warnings]
