# SPDX-License-Identifier: Apache-2.0
"""Dataclasses to and from string parameters."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from flagtriton.protocol.parameters import ParameterError, read_parameters, write_parameters


@dataclass(frozen=True)
class Settings:
    """One field of every kind that a parameter can have."""

    name: str
    count: int = 1
    share: float = 0.5
    wanted: bool = False
    limit: int | None = None
    note: str | None = None
    strict: bool | None = None


def test_values_are_written_as_strings() -> None:
    settings = Settings("a", count=2, share=0.25, wanted=True, limit=3, note="b")
    assert write_parameters(settings) == {
        "name": "a",
        "count": "2",
        "share": "0.25",
        "wanted": "true",
        "limit": "3",
        "note": "b",
    }


def test_none_is_an_absent_key() -> None:
    assert not {"limit", "note", "strict"} & set(write_parameters(Settings("a")))


def test_false_is_written_in_small_letters() -> None:
    assert write_parameters(Settings("a"))["wanted"] == "false"


def test_an_empty_string_is_written_as_such() -> None:
    assert write_parameters(Settings("a", note=""))["note"] == ""


@pytest.mark.parametrize(
    "settings",
    [
        Settings("a"),
        Settings("", count=-1, share=1e-5, wanted=True, limit=0, note="", strict=False),
        Settings("true", count=0, note="None", strict=True),
    ],
)
def test_what_was_written_is_read_back_equal(settings: Settings) -> None:
    assert read_parameters(Settings, write_parameters(settings)) == settings


def test_absent_keys_take_their_defaults() -> None:
    assert read_parameters(Settings, {"name": "a"}) == Settings("a")


def test_a_missing_key_without_default_is_named() -> None:
    with pytest.raises(ParameterError, match=r"parameter 'name' is missing; Settings needs name"):
        read_parameters(Settings, {"count": "1"})


def test_an_unknown_key_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ParameterError, match=r"unknown parameter 'colour'; Settings has count, limit, name"):
        read_parameters(Settings, {"name": "a", "colour": "red"})


def test_unknown_keys_can_be_passed_over() -> None:
    assert read_parameters(Settings, {"name": "a", "colour": "red"}, ignore_unknown=True) == Settings("a")


@pytest.mark.parametrize("text", ["True", "1", "yes", ""])
def test_a_boolean_is_true_or_false_and_nothing_else(text: str) -> None:
    with pytest.raises(ParameterError, match=f"parameter 'wanted' is '{text}', expected 'true' or 'false'"):
        read_parameters(Settings, {"name": "a", "wanted": text})


@pytest.mark.parametrize(
    ("name", "text", "kind"), [("count", "1.5", "int"), ("limit", "None", "int"), ("share", "x", "float")]
)
def test_a_number_that_does_not_parse_is_named_with_its_type(name: str, text: str, kind: str) -> None:
    with pytest.raises(ParameterError, match=f"parameter '{name}' is '{text}', expected {kind}"):
        read_parameters(Settings, {"name": "a", name: text})


def test_an_optional_boolean_is_parsed_like_a_boolean() -> None:
    assert read_parameters(Settings, {"name": "a", "strict": "false"}).strict is False


def test_a_parameter_error_is_a_value_error() -> None:
    assert issubclass(ParameterError, ValueError)
