# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.supervision`: what is asked and told, and what is done about a server that hangs."""

from __future__ import annotations

import pytest

from flagtriton_tools.serve.health import READY
from flagtriton_tools.tritonserver.admin import Reply
from tests.support.fake_supervision import OK, World, refused


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


# What answers.


def test_the_servers_exit_code_is_returned_once_it_ends(world: World) -> None:
    world.at(3, lambda: world.server.end(137))
    assert world.supervisor.run() == 137
    assert world.clock.now - 1000 == 3


def test_what_is_loaded_is_watched_from_the_start(world: World) -> None:
    world.run(0.5)
    assert world.supervisor.names == ["m3", "plain"]
    assert sorted(world.supervisor.ensembles) == ["m3", "m3_score", "plain"]
    assert (world.state("plain"), world.state("m3")) == ((READY, ""), (READY, ""))
    assert (world.lines, world.triton.calls) == ([], [])


def test_each_ensemble_is_asked_for_something_tiny_by_its_inputs(world: World) -> None:
    world.run(0.5)
    assert sorted(world.triton.asked, key=lambda asked: asked[0]) == [
        ("m3", {"text": "ok"}),
        ("m3_score", {"query": "ok", "passage": "ok"}),
        ("plain", {"text": "ok"}),
    ]


def test_a_deployment_is_asked_every_two_seconds(world: World) -> None:
    world.run(8)
    assert [name for name, _ in world.triton.asked].count("plain") == 4  # at 0, 2, 4 and 6 s


def test_a_model_that_flagtriton_did_not_add_is_not_watched(world: World) -> None:
    world.triton.serve({"theirs": {"name": "theirs", "backend": "python"}})
    world.triton.stubs["theirs"] = 0
    world.run(6)
    assert world.supervisor.names == ["m3", "plain"]
    assert world.triton.calls == []


def test_a_busy_deployment_is_ready(world: World) -> None:
    world.triton.replies["plain"] = [refused("the model is busy", 503)]
    world.run(6)
    assert world.state("plain") == (READY, "")
    assert (world.lines, world.triton.calls) == ([], [])


@pytest.mark.parametrize(
    ("reply", "reason"), [(refused("CUDA out of memory"), "CUDA out of memory"), (Reply(0, b"timed out"), "no answer")]
)
def test_a_deployment_that_fails_is_told_once_and_left_alone(world: World, reply: Reply, reason: str) -> None:
    world.triton.replies["plain"] = [reply]
    world.run(12)
    assert world.state("plain") == ("failing", reason)
    assert world.lines == [f"failing: plain: {reason}"]
    assert world.triton.calls == []
    assert world.state("m3") == (READY, "")


def test_a_deployment_that_answers_again_is_ready_again(world: World) -> None:
    world.triton.replies["plain"] = [refused("CUDA out of memory"), OK]
    world.run(6)
    assert world.state("plain") == (READY, "")


def test_a_further_ensemble_that_fails_makes_the_deployment_fail(world: World) -> None:
    world.triton.replies["m3_score"] = [refused("why")]
    world.run(1)
    assert world.state("m3") == ("failing", "why")


# Two things at once.


def test_a_deployment_has_one_task_at_a_time_and_keeps_no_other_waiting(world: World) -> None:
    world.pool.later = True
    world.triton.die("plain_encoder")
    world.run(10)
    assert len(world.pool.waiting) == 2  # one for each of both deployments, though they are looked at 20 times


def test_the_next_task_follows_the_last(world: World) -> None:
    world.pool.later = True
    world.at(2, world.pool.work)
    world.run(6)
    assert len(world.pool.waiting) == 2


def test_at_the_end_what_waits_is_dropped(world: World) -> None:
    world.run(1)
    assert world.pool.shut_down == (False, True)
    assert world.supervisor._stopped


# A server that hangs.


def test_a_server_that_has_not_answered_for_a_minute_is_killed(world: World) -> None:
    world.at(7, lambda: setattr(world.triton, "answers", False))
    assert world.run(500) == 137
    assert world.lines[-1] == "tritonserver has not answered for 60 s, so it is ended"
    assert 65 <= world.clock.now - 1000 <= 72  # the last answer came at 5 s, and every 5 s is looked


def test_a_server_that_answers_again_within_a_minute_goes_on(world: World) -> None:
    world.at(7, lambda: setattr(world.triton, "answers", False))
    world.at(60, lambda: setattr(world.triton, "answers", True))
    world.at(70, lambda: setattr(world.triton, "answers", False))
    world.at(120, lambda: setattr(world.triton, "answers", True))
    assert world.run(130) == 0
    assert "tritonserver has not answered for 60 s, so it is ended" not in world.lines


def test_a_server_that_hangs_has_unloaded_nothing(world: World) -> None:
    world.at(7, lambda: setattr(world.triton, "answers", False))
    world.run(30)
    assert world.supervisor.names == ["m3", "plain"]
    assert world.state("plain") == ("failing", "no answer")


# The file for probes.


@pytest.fixture
def beats(world: World, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times: list[float] = []
    monkeypatch.setattr(world.health, "beat", lambda: times.append(world.clock.now - 1000))
    return times


def test_the_health_file_is_written_anew_twice_a_second(world: World, beats: list[float]) -> None:
    world.run(2)
    assert beats == [0, 0.5, 1, 1.5]
