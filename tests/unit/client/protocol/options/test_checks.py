# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.options.checks`: how one option is checked, whatever it is called."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from flagtriton.protocol.options.checks import (
    Check,
    OptionError,
    a_boolean,
    a_string,
    a_whole_number,
    checked,
    different,
    one_of,
    tokens,
)


@dataclass(frozen=True)
class Made:
    """Some options."""

    size: int = 1
    name: str | None = None


def test_only_fields_that_differ_from_their_defaults_are_kept() -> None:
    assert different(Made()) == {}
    assert different(Made(2, "")) == {"size": 2, "name": ""}


def test_what_is_checked_comes_back_without_tritons_own() -> None:
    assert checked({"size": 3, "triton_x": 1, "id": "a"}, {"size": a_whole_number(1, None, "bytes")}) == {"size": 3}


def test_an_option_without_a_check_is_unknown() -> None:
    with pytest.raises(OptionError, match=r"^unknown option 'c'; this model has a, b$"):
        checked({"a": "x", "c": "y"}, {"b": a_string, "a": a_string})


@pytest.mark.parametrize(
    ("check", "allowed"),
    [
        (a_whole_number(1, 3, "bytes"), [1, 2, 3]),
        (a_whole_number(0, None, "bytes"), [0, 10**12]),
        (a_whole_number(0, 0, "bytes"), [0]),
        (tokens(2, 2), [2]),
        (one_of("a", "b"), ["a", "b"]),
        (a_boolean, [True, False]),
        (a_string, ["", "a"]),
    ],
)
def test_what_is_allowed_passes(check: Check, allowed: list[object]) -> None:
    for value in allowed:
        check("x", value)


@pytest.mark.parametrize(
    ("check", "refused", "expected"),
    [
        (a_whole_number(1, 3, "bytes"), [0, 4, 1.0, "1", True, None], r"a whole number from 1 to 3 \(bytes\)"),
        (a_whole_number(1, None, "bytes"), [0, -1], r"a whole number of at least 1 \(bytes\)"),
        (a_whole_number(0, 0, "bytes"), [1], r"a whole number from 0 to 0 \(bytes\)"),
        (tokens(2, 8), [1, 9], r"a whole number from 2 to 8 \(tokens, this deployment's limits\)"),
        (one_of("a", "b"), ["c", "A", None, 1], "one of 'a', 'b'"),
        (a_boolean, [0, 1, "true", None], "true or false, as a boolean"),
        (a_string, [1, True, None, b"a"], "a string"),
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(check: Check, refused: list[object], expected: str) -> None:
    for value in refused:
        with pytest.raises(OptionError, match=rf"^option 'x' is {value!r}; expected {expected}$"):
            check("x", value)
