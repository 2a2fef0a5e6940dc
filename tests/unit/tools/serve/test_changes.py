# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.changes`: what is told of loads, once."""

from __future__ import annotations

from flagtriton_tools.serve.changes import Changes, Processes
from flagtriton_tools.tritonserver.admin import ModelState


def states(**reasons: str) -> dict[str, ModelState]:
    """Return models that are ready, or unavailable for a reason."""
    return {name: ModelState(name, "UNAVAILABLE" if why else "READY", why) for name, why in reasons.items()}


def processes(**pids: set[int]) -> Processes:
    return {step: frozenset(own) for step, own in pids.items()}


def test_a_failed_load_is_told_once_and_again_for_another_cause() -> None:
    changes = Changes()
    assert changes.failures(states(a=""), ()) == {}
    assert changes.failures(states(a="no memory"), ()) == {"a": "no memory"}
    assert changes.failures(states(a="no memory"), ()) == {}
    assert changes.failures(states(a="no file"), ()) == {"a": "no file"}
    assert changes.failures(states(a=""), ()) == {}
    assert changes.failures(states(a="no file"), ()) == {"a": "no file"}


def test_what_failed_at_the_start_was_unloaded_or_is_being_brought_back_is_told_elsewhere() -> None:
    changes = Changes()
    assert changes.failures(states(a="no memory"), ()) == {}
    assert changes.failures(states(a="no memory", b="unloaded"), ()) == {}
    assert changes.failures(states(a="no memory", c="died"), ["c"]) == {}


def test_other_processes_are_told_once_all_of_them_have_settled() -> None:
    changes, old, new = Changes(), processes(encoder={1}, pooler={2}), processes(encoder={3}, pooler={4})
    seen = [old, old, processes(encoder={1, 3}, pooler={2}), processes(encoder={3}, pooler={2}), new, new, new]
    assert [changes.loaded_again("a", each) for each in seen] == [False] * 5 + [True, False]


def test_a_process_that_is_missing_is_no_load() -> None:
    changes = Changes()
    seen = [processes(encoder={1})] * 2 + [processes(encoder=set())] * 3
    assert not any(changes.loaded_again("a", each) for each in seen)


def test_what_was_brought_back_is_not_told_as_a_load() -> None:
    changes = Changes()
    for _ in range(2):
        assert not changes.loaded_again("a", processes(encoder={1}))
    changes.forget("a")
    for _ in range(3):
        assert not changes.loaded_again("a", processes(encoder={2}))
