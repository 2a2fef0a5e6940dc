# SPDX-License-Identifier: Apache-2.0
"""`serve.control`: which models are loaded and unloaded, in which order, of a server without a process."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve import control
from flagtriton_tools.serve.control import load_deployment, progress, unload_deployment
from flagtriton_tools.tritonserver.admin import ModelState
from tests.support.fake_triton import FakeAdmin, FakeClock, FakeTriton, deployment

M3 = "encoder-only-m3"
M3_STEPS = ["m3_tokenizer", "m3_encoder", "m3_dense_sparse", "m3_colbert", "m3_scorer"]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(control, "time", clock)
    return clock


@pytest.fixture
def triton() -> FakeTriton:
    """Return a server of `plain`, of one ensemble, and `m3`, of two."""
    return FakeTriton().serve(deployment("plain"), deployment("m3", M3))


@pytest.fixture
def admin(triton: FakeTriton) -> FakeAdmin:
    return FakeAdmin(triton=triton)


@pytest.mark.parametrize("command", [load_deployment, unload_deployment])
def test_a_step_of_a_deployment_is_neither_loaded_nor_unloaded_by_itself(
    command: Callable[..., object], triton: FakeTriton, admin: FakeAdmin
) -> None:
    with pytest.raises(ToolError, match=r"plain_encoder is a step of plain; name .*load plain`"):
        command(admin, "plain_encoder")
    assert triton.calls == []


# Loading.


def test_what_is_loaded_already_is_loaded_anew_steps_first(triton: FakeTriton, admin: FakeAdmin) -> None:
    models = load_deployment(admin, "plain")
    assert models == ["plain", "plain_tokenizer", "plain_encoder", "plain_pooler"]
    assert triton.calls == [f"load {name}" for name in reversed(models)]


def test_both_ensembles_of_a_deployment_are_loaded_behind_all_their_steps(triton: FakeTriton, admin: FakeAdmin) -> None:
    assert load_deployment(admin, "m3") == ["m3", "m3_score", *M3_STEPS]
    assert triton.calls[-2:] == ["load m3_score", "load m3"]
    assert {call.removeprefix("load ") for call in triton.calls[:-2]} == set(M3_STEPS)


def test_a_new_deployment_is_loaded_by_its_name_first_as_nobody_knows_its_steps_yet(
    triton: FakeTriton, admin: FakeAdmin
) -> None:
    triton.files.update(deployment("new"))
    assert load_deployment(admin, "new") == ["new", "new_tokenizer", "new_encoder", "new_pooler"]
    assert triton.calls[0] == "load new"
    assert all(triton.states[name].is_ready for name in ("new", "new_tokenizer", "new_encoder", "new_pooler"))


def test_the_further_ensemble_of_a_new_deployment_is_loaded_too(admin: FakeAdmin, triton: FakeTriton) -> None:
    triton.files.update(deployment("new", M3))
    models = load_deployment(admin, "new")
    assert models[:2] == ["new", "new_score"]
    assert triton.states["new_score"].is_ready


def test_what_has_changed_on_the_disk_is_what_is_loaded(triton: FakeTriton, admin: FakeAdmin) -> None:
    triton.files.update(deployment("plain", instances=3))
    load_deployment(admin, "plain")
    assert triton.stubs["plain_encoder"] == 3


def test_loading_one_deployment_touches_no_other(triton: FakeTriton, admin: FakeAdmin) -> None:
    load_deployment(admin, "plain")
    assert [call for call in triton.calls if "m3" in call] == []


def test_a_step_that_does_not_load_is_told_and_the_ensembles_stay(triton: FakeTriton, admin: FakeAdmin) -> None:
    triton.failures["plain_encoder"] = ["OSError: no such checkpoint\n\nAt:\n  model.py(1)"]
    with pytest.raises(ToolError) as failed:
        load_deployment(admin, "plain")
    cause, hint = str(failed.value).splitlines()
    assert cause == "http://triton:8000: load failed for model 'plain_encoder': OSError: no such checkpoint"
    assert hint.startswith("What answered before goes on until its server or process ends")
    assert triton.calls == ["load plain_pooler", "load plain_encoder"]
    assert triton.states["plain"].is_ready


def test_another_tools_model_is_loaded_by_itself(triton: FakeTriton, admin: FakeAdmin) -> None:
    triton.serve({"theirs": {"name": "theirs", "backend": "onnxruntime"}})
    assert load_deployment(admin, "theirs") == ["theirs"]
    assert triton.calls == ["load theirs"]


def test_what_is_not_in_the_repository_is_told_with_how_to_add_it(admin: FakeAdmin) -> None:
    with pytest.raises(ToolError) as refused:
        load_deployment(admin, "gone")
    assert str(refused.value) == (
        "http://triton:8000 has no model gone in its repository; `flagtriton add CHECKPOINT --name gone` adds it"
    )


@pytest.mark.parametrize("operation", [load_deployment, unload_deployment])
def test_a_server_that_does_not_answer_is_told(triton: FakeTriton, operation: object) -> None:
    triton.answers = False
    with pytest.raises(ToolError) as refused:
        operation(FakeAdmin(triton=triton), "plain")  # type: ignore[operator]
    assert str(refused.value) == (
        "no answer from http://triton:8000; is the server running, and is this its HTTP port?"
    )


# Unloading.


def test_ensembles_are_unloaded_before_their_steps(triton: FakeTriton, admin: FakeAdmin) -> None:
    assert unload_deployment(admin, "m3") == ["m3", "m3_score", *M3_STEPS]
    assert triton.calls[:2] == ["unload m3", "unload m3_score"]
    assert sorted(triton.calls[2:]) == sorted(f"unload {step}" for step in M3_STEPS)


def test_steps_go_on_until_the_requests_of_their_ensembles_are_answered(
    triton: FakeTriton, admin: FakeAdmin, clock: FakeClock
) -> None:
    triton.unloading_polls["plain"] = 5  # six looks at 0, 0.05, … s: the last finds it gone
    seen: list[list[str]] = []
    clock.at(0.2, lambda: seen.append(list(triton.calls)))
    unload_deployment(admin, "plain")
    assert seen == [["unload plain"]]
    assert triton.calls == ["unload plain", "unload plain_tokenizer", "unload plain_encoder", "unload plain_pooler"]
    assert clock.slept == [0.05] * 5


def test_it_returns_once_the_steps_are_gone_too(triton: FakeTriton, admin: FakeAdmin, clock: FakeClock) -> None:
    triton.unloading_polls["plain_encoder"] = 3
    unload_deployment(admin, "plain")
    assert clock.slept == [0.05] * 3
    assert triton.states["plain_encoder"].state == "UNAVAILABLE"


def test_requests_that_do_not_end_are_told_after_a_minute(
    triton: FakeTriton, admin: FakeAdmin, clock: FakeClock
) -> None:
    triton.unloading_polls["m3"] = 10_000
    with pytest.raises(ToolError) as late:
        unload_deployment(admin, "m3")
    assert str(late.value) == "m3 still had requests after 60 s"
    assert 60 <= clock.now - 1000 < 61
    assert triton.calls == ["unload m3", "unload m3_score"]


def test_steps_that_triton_keeps_are_told_and_count_as_unloaded(
    triton: FakeTriton, admin: FakeAdmin, clock: FakeClock
) -> None:
    # A process of theirs has died with a bulk request, which is never answered.
    triton.unloading_polls.update({"plain_tokenizer": 10_000, "plain_pooler": 10_000})
    told: list[str] = []
    assert unload_deployment(admin, "plain", told.append)[0] == "plain"
    assert [line.split(":")[0] for line in told] == ["plain_tokenizer, plain_pooler"]
    assert 20 <= clock.now - 1000 < 21


def test_a_server_that_ends_meanwhile_is_told(triton: FakeTriton, admin: FakeAdmin, clock: FakeClock) -> None:
    triton.unloading_polls["plain"] = 100
    clock.at(0.5, lambda: setattr(triton, "answers", False))
    with pytest.raises(ToolError, match="no answer from"):
        unload_deployment(admin, "plain")


def test_unloading_one_deployment_touches_no_other(triton: FakeTriton, admin: FakeAdmin) -> None:
    unload_deployment(admin, "plain")
    assert [call for call in triton.calls if "m3" in call] == []


def test_another_tools_model_is_unloaded_by_itself(triton: FakeTriton, admin: FakeAdmin) -> None:
    triton.serve({"theirs": {"name": "theirs", "backend": "onnxruntime"}})
    assert unload_deployment(admin, "theirs") == ["theirs"]
    assert triton.calls == ["unload theirs"]


@pytest.mark.parametrize("name", ["gone", "plain"])
def test_what_is_not_loaded_cannot_be_unloaded(triton: FakeTriton, admin: FakeAdmin, name: str) -> None:
    triton.states["plain"] = ModelState("plain", "UNAVAILABLE", "unloaded")
    with pytest.raises(ToolError) as refused:
        unload_deployment(admin, name)
    assert str(refused.value) == f"{name} is not loaded at http://triton:8000"
    assert triton.calls == []


# What is told meanwhile.


def test_what_takes_long_is_told_every_few_seconds(triton: FakeTriton, admin: FakeAdmin) -> None:
    triton.states["plain_encoder"] = ModelState("plain_encoder", "LOADING")
    lines: list[str] = []
    told = threading.Event()

    def show(line: str) -> None:
        lines.append(line)
        told.set()

    with progress(admin, "plain", show, every_s=0.01):
        assert told.wait(30)
    assert lines[0] == "loading plain, 0 s: 3 of 4 models ready, waiting for plain_encoder"


def test_what_is_quick_is_not_told(admin: FakeAdmin) -> None:
    lines: list[str] = []
    with progress(admin, "plain", lines.append, every_s=600):
        load_deployment(admin, "plain")
    assert lines == []
