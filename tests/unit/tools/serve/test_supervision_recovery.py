# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.supervision`: dead processes are brought back, and nothing that somebody else unloads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from flagtriton_tools.serve import supervision
from flagtriton_tools.serve.control import load_deployment, unload_deployment
from flagtriton_tools.serve.health import READY
from flagtriton_tools.tritonserver.admin import ModelState, Reply
from tests.support.fake_supervision import OK, World, refused
from tests.support.fake_triton import deployment

CAUSE = "MemoryError: no room"
UNHEALTHY = "in ensemble 'm3', Stub process 'm3_encoder_0_0' is not healthy."


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


# What dies.


def test_a_dead_process_is_brought_back_with_its_ensembles_and_nothing_else(world: World) -> None:
    world.at(3, lambda: world.triton.die("m3_encoder"))
    world.run(6)
    assert world.triton.calls == ["unload m3_encoder", "load m3_encoder"]
    assert world.lines == [
        "recovering: m3: the process of m3_encoder has died",
        "recovered: m3, after 0.0 s",
    ]
    assert (world.state("m3"), world.recoveries("m3")) == ((READY, ""), 1)
    assert world.recoveries("plain") == 0


def test_ensembles_that_triton_does_not_bring_back_are_loaded(world: World) -> None:
    world.triton.brings_back = False
    world.at(3, lambda: world.triton.die("m3_encoder"))
    world.run(6)
    assert world.triton.calls == ["unload m3_encoder", "load m3_encoder", "load m3", "load m3_score"]
    assert (world.state("m3"), world.recoveries("m3")) == ((READY, ""), 1)


def test_a_dead_process_is_seen_within_half_a_second(world: World) -> None:
    world.at(2.5, lambda: world.triton.die("plain_encoder"))
    world.run(3.5)
    assert "recovered: plain, after 0.0 s" in world.lines


def test_what_was_brought_back_is_asked_at_once(world: World) -> None:
    world.at(2.5, lambda: world.triton.die("plain_encoder"))
    world.run(3.5)
    assert [name for name, _ in world.triton.asked].count("plain") == 3  # at 0, 2 and 3 s


def test_a_process_that_only_triton_calls_dead_has_growing_waits_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = world.triton.live_stubs()
    monkeypatch.setattr(supervision, "live_stubs", lambda _: alive)
    world.triton.replies["m3"] = [refused(UNHEALTHY)]
    world.triton.failures["m3_encoder"] = [CAUSE] * 20
    world.run(20)
    waits = [line.rpartition("; another try in ")[2] for line in world.lines if line.startswith("failing")]
    assert waits == ["1 s", "2 s", "4 s", "8 s", "16 s"]


def test_one_dead_process_of_several_is_enough(world: World) -> None:
    world.triton.serve(deployment("many", instances=3))
    world.at(3, lambda: world.triton.stubs.update({"many_encoder": -1}))
    world.run(6)
    assert world.triton.calls[:2] == ["unload many_encoder", "load many_encoder"]


def test_all_dead_steps_are_unloaded_before_any_is_loaded(world: World) -> None:
    world.at(3, lambda: [world.triton.die(step) for step in ("plain_encoder", "plain_pooler")])
    world.run(6)
    assert world.triton.calls == [
        "unload plain_encoder",
        "unload plain_pooler",
        "load plain_encoder",
        "load plain_pooler",
    ]
    assert world.lines[0] == "recovering: plain: the process of plain_encoder, plain_pooler has died"


def test_it_is_recovering_while_it_is_brought_back(world: World) -> None:
    world.pool.later = True
    seen: list[tuple[str, str]] = []
    answer = world.triton.answer

    def noted(path: str, body: Any) -> Reply:
        if path.endswith("plain_encoder/load"):
            seen.append(world.state("plain"))
        return answer(path, body)

    world.triton.answer = noted  # type: ignore[method-assign]
    world.at(0.5, world.pool.work)
    world.at(1, lambda: world.triton.die("plain_encoder"))
    for seconds in (1.5, 2, 2.5, 3):
        world.at(seconds, world.pool.work)
    world.run(4)
    assert seen == [("recovering", "the process of plain_encoder has died")]


def test_a_process_that_triton_calls_dead_is_brought_back_though_it_seems_alive(world: World) -> None:
    world.triton.replies["m3"] = [OK, refused(UNHEALTHY), OK]
    world.run(6)
    assert world.triton.calls == ["unload m3_encoder", "load m3_encoder"]
    assert (world.state("m3"), world.recoveries("m3")) == ((READY, ""), 1)


def test_a_process_of_another_deployment_is_not_this_ones_to_bring_back(world: World) -> None:
    world.triton.replies["plain"] = [refused(UNHEALTHY)]
    world.run(1)
    assert world.triton.calls == []
    assert world.state("plain") == ("failing", UNHEALTHY)


def test_waits_grow_while_it_cannot_be_loaded_up_to_a_minute(world: World) -> None:
    world.triton.failures["plain_encoder"] = [CAUSE] * 20
    tried: list[float] = []
    answer = world.triton.answer

    def noted(path: str, body: Any) -> Reply:
        if path.endswith("plain_encoder/load"):
            tried.append(world.clock.now)
        return answer(path, body)

    world.triton.answer = noted  # type: ignore[method-assign]
    world.at(1, lambda: world.triton.die("plain_encoder"))
    world.run(240)
    assert [after - before for before, after in pairwise(tried)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_why_it_cannot_be_loaded_is_told_with_when_the_next_try_follows(world: World) -> None:
    world.triton.failures["plain_encoder"] = [CAUSE] * 2
    world.at(2, lambda: world.triton.die("plain_encoder"))
    world.run(2.5)
    error = f"http://triton:8000: load failed for model 'plain_encoder': {CAUSE}"
    assert world.lines == [
        "recovering: plain: the process of plain_encoder has died",
        f"failing: plain: {error}; another try in 1 s",
    ]
    assert world.state("plain") == ("failing", f"{error}; another try in 1 s")
    assert world.state("m3") == (READY, "")


def test_waits_begin_anew_once_it_has_answered(world: World) -> None:
    world.triton.failures["plain_encoder"] = [CAUSE] * 3
    world.at(1, lambda: world.triton.die("plain_encoder"))
    world.at(20, lambda: world.triton.die("plain_encoder"))
    world.at(20, lambda: world.triton.failures.update({"plain_encoder": [CAUSE]}))
    world.run(30)
    waits = [line.rpartition("; another try in ")[2] for line in world.lines if line.startswith("failing")]
    assert waits == ["1 s", "2 s", "4 s", "1 s"]
    assert (world.state("plain"), world.recoveries("plain")) == ((READY, ""), 2)


def test_what_was_loaded_but_does_not_answer_has_not_recovered_from_its_waits(world: World) -> None:
    # The step loads and dies again at its first request.
    world.triton.failures["plain_encoder"] = [CAUSE]
    world.triton.replies["plain"] = [refused("Stub process 'plain_encoder_0_0' is not healthy.")]
    world.at(3.2, lambda: world.triton.failures.update({"plain_encoder": [CAUSE]}))
    world.run(6)
    waits = [line.rpartition("; another try in ")[2] for line in world.lines if "another try" in line]
    assert waits == ["1 s", "2 s"]


def test_a_server_that_ends_is_loaded_nothing_more(world: World) -> None:
    answer = world.triton.answer

    def ends(path: str, body: Any) -> Reply:
        reply = answer(path, body)
        if path.endswith("m3_encoder/load"):
            world.supervisor._stopped = True
        return reply

    world.triton.answer = ends  # type: ignore[method-assign]
    world.at(2, lambda: world.triton.die("m3_encoder"))
    world.run(2.5)
    assert world.triton.calls == ["unload m3_encoder", "load m3_encoder"]


# What others load and unload.


def test_what_is_loaded_later_is_watched_within_two_seconds(world: World) -> None:
    world.at(7, lambda: world.triton.serve(deployment("new")))
    world.at(9, lambda: world.triton.die("new_encoder"))
    world.run(10)
    assert world.supervisor.names == ["m3", "new", "plain"]
    assert world.triton.calls == ["unload new_encoder", "load new_encoder"]
    assert world.state("new") == (READY, "")


def test_what_failed_at_the_start_and_was_loaded_later_is_ready(world: World) -> None:
    world.health.deployment_is("new", "failed", CAUSE)
    world.at(7, lambda: world.triton.serve(deployment("new")))
    world.run(12)
    assert world.state("new") == (READY, "")
    assert world.health.is_ready()


def test_what_was_unloaded_is_not_brought_back_and_is_forgotten(world: World) -> None:
    world.at(1, lambda: unload_deployment(world.admin, "m3"))
    world.at(1, lambda: world.triton.calls.clear())
    world.run(12)
    assert world.triton.calls == []
    assert world.supervisor.names == ["plain"]
    assert world.lines == ["unloaded: m3, as a client asked"]
    assert list(world.health.to_json()["deployments"]) == ["plain"]
    assert world.health.is_ready()


def test_what_was_unloaded_is_forgotten_though_triton_keeps_a_step_of_it(world: World) -> None:
    world.triton.unloading_polls["plain_pooler"] = 10_000
    for model in ("plain", "plain_tokenizer", "plain_encoder", "plain_pooler"):
        world.at(1, lambda model=model: world.admin.unload(model))
    world.run(12)
    assert world.lines == ["unloaded: plain, as a client asked"]
    assert list(world.health.to_json()["deployments"]) == ["m3"]


def test_an_ensemble_that_somebody_unloaded_is_not_called_failing(world: World) -> None:
    # 404, and its steps are still there: `flagtriton unload` waits for their requests.
    world.at(1, lambda: world.admin.unload("plain"))
    world.run(4)
    assert world.lines == []
    assert world.triton.calls == ["unload plain"]


def test_steps_that_are_being_loaded_by_somebody_are_left_to_them(world: World) -> None:
    def loading() -> None:
        world.triton.die("plain_encoder")
        world.triton.states["plain_encoder"] = ModelState("plain_encoder", "LOADING")

    world.at(1, loading)
    world.run(4)
    assert world.triton.calls == []
    assert world.lines == []


def test_what_was_unloaded_and_loaded_again_is_watched_again(world: World) -> None:
    world.at(1, lambda: unload_deployment(world.admin, "plain"))
    world.at(7, lambda: load_deployment(world.admin, "plain"))
    world.run(12)
    assert world.supervisor.names == ["m3", "plain"]
    assert world.state("plain") == (READY, "")


def test_what_was_unloaded_and_removed_from_the_repository_is_forgotten(world: World) -> None:
    def unload_and_remove() -> None:
        for name in unload_deployment(world.admin, "plain"):
            del world.triton.files[name]

    world.at(1, unload_and_remove)
    world.run(12)
    assert world.supervisor.names == ["m3"]
    assert list(world.health.to_json()["deployments"]) == ["m3"]


def loaded_anew(world: World, **options: Any) -> None:
    world.triton.files.update(deployment("plain", **options))
    load_deployment(world.admin, "plain")
    world.triton.calls.clear()


def test_a_deployment_loaded_anew_with_fewer_instances_is_not_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.triton.serve(deployment("plain", instances=2))
    world.at(7, lambda: loaded_anew(world, instances=1))
    world.run(20)
    assert (world.triton.calls, world.recoveries("plain")) == ([], 0)


def of_two_versions(monkeypatch: pytest.MonkeyPatch, answers: str) -> World:
    """Return a world in which `plain` has the versions 1 and 2 of its steps, one of which answers."""
    world = World(monkeypatch)
    steps = [name for name in deployment("plain") if name != "plain"]
    world.triton.versions.update(dict.fromkeys(steps, ("1", "2")), plain=(answers,))
    world.triton.serve(deployment("plain"))
    return world


@pytest.mark.parametrize("answers", ["1", "2"])
def test_a_dead_process_of_the_version_that_answers_is_brought_back(
    monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    world = of_two_versions(monkeypatch, answers)
    world.at(3, lambda: world.triton.dead.add(("plain_encoder", answers)))
    world.run(6)
    assert world.triton.calls == ["unload plain_encoder", "load plain_encoder"]
    assert world.recoveries("plain") == 1


@pytest.mark.parametrize(("answers", "kept"), [("1", "2"), ("2", "1")])
def test_a_dead_process_of_another_version_does_not_cost_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch, answers: str, kept: str
) -> None:
    world = of_two_versions(monkeypatch, answers)
    world.at(3, lambda: world.triton.dead.add(("plain_encoder", kept)))
    world.run(20)
    assert (world.triton.calls, world.recoveries("plain")) == ([], 0)


def test_after_a_switch_the_other_version_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_two_versions(monkeypatch, "1")
    world.at(7, lambda: world.triton.versions.update(plain=("2",)))
    world.at(7, lambda: load_deployment(world.admin, "plain"))
    world.at(7, lambda: world.triton.calls.clear())
    world.at(12, lambda: world.triton.dead.add(("plain_encoder", "1")))
    world.at(16, lambda: world.triton.dead.add(("plain_encoder", "2")))
    world.run(15)
    assert world.triton.calls == []


def test_a_deployment_loaded_anew_with_other_steps_is_watched_by_those(world: World) -> None:
    world.at(7, lambda: loaded_anew(world, pool_in_encoder=True))
    world.at(7, lambda: world.admin.unload("plain_pooler"))
    world.at(7, lambda: world.triton.calls.clear())
    world.at(13, lambda: world.triton.die("plain_encoder"))
    world.run(20)
    assert world.triton.calls == ["unload plain_encoder", "load plain_encoder"]
    assert world.state("plain") == (READY, "")
