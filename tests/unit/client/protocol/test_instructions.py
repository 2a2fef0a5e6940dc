# SPDX-License-Identifier: Apache-2.0
"""How an instruction and a text are joined."""

from __future__ import annotations

import pytest

from flagtriton.protocol.instructions import apply_instruction, check_fields, check_instruction_format


def test_the_plain_format_puts_the_instruction_right_before_the_text() -> None:
    assert apply_instruction("{}{}", "query: ", "what") == "query: what"


def test_a_literal_backslash_n_in_the_format_is_a_newline() -> None:
    assert apply_instruction(r"Instruct: {}\nQuery: {}", "find", "what") == "Instruct: find\nQuery: what"


def test_a_real_newline_in_the_format_stays() -> None:
    assert apply_instruction("<instruct>{}\n<query>{}", "find", "what") == "<instruct>find\n<query>what"


def test_a_literal_backslash_n_in_the_instruction_stays() -> None:
    assert apply_instruction("{} {}", r"a\nb", "what") == r"a\nb what"


def test_a_literal_backslash_n_in_the_text_stays() -> None:
    assert apply_instruction("{} {}", "find", r"a\nb") == r"find a\nb"


def test_braces_in_instruction_and_text_stay() -> None:
    assert apply_instruction("{}{}", "{0} ", "{x}") == "{0} {x}"


def test_an_empty_instruction_still_applies_the_format() -> None:
    assert apply_instruction("Instruct: {}\nQuery: {}", "", "what") == "Instruct: \nQuery: what"


def test_a_format_of_three_fields_is_an_error() -> None:
    with pytest.raises(IndexError):
        apply_instruction("{}{}{}", "find", "what")


@pytest.mark.parametrize(
    "instruction_format", ["{}{}", r"Instruct: {}\nQuery: {}", "<{}>\n{}", "{1}{0}", "{1}", "{0}{1}{1}", "{{}}{}{}"]
)
def test_a_format_with_the_text_in_it_is_one(instruction_format: str) -> None:
    check_instruction_format(instruction_format)


@pytest.mark.parametrize("instruction_format", ["", "plain", "{}", "{0}", "{{}}{{}}", "\u2606{}"])
def test_a_format_that_leaves_the_text_out_is_none(instruction_format: str) -> None:
    with pytest.raises(ValueError, match=r"which leaves the text out; expected 2 '\{\}': instruction, text$"):
        check_instruction_format(instruction_format)


@pytest.mark.parametrize(
    "instruction_format",
    [
        "{}{}{}",
        "{2}{1}",
        "{a}{}",
        "{}{",
        "{}}",
        "{0}{}",
        "{.nope}{}",
        "{}{:.0}",
        "{!r}{}",
        "{0[x]}{1}",
        "{:>99999999999999}{}",
    ],
)
def test_a_format_with_other_fields_or_half_a_one_is_none(instruction_format: str) -> None:
    with pytest.raises(ValueError, match=r"which has other fields \(.*\); expected 2 '\{\}': instruction, text$"):
        check_instruction_format(instruction_format)


@pytest.mark.parametrize(
    "instruction_format", ["{.nope}{}", "{0.__class__}{1}", "{}{:.0}", "{!r}{}", "{0[x]}{1}", "{:>99999999999999}{}"]
)
def test_a_format_whose_fields_are_not_plain_is_none(instruction_format: str) -> None:
    with pytest.raises(ValueError, match=r"which has other fields \(plain ones only\); expected 2 '\{\}'"):
        check_instruction_format(instruction_format)


def test_a_format_that_is_none_is_shown_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"^the instruction format is '\{\}'"):
        check_instruction_format("{}")
    with pytest.raises(ValueError, match=r"^query_instruction_format is '\{\}'"):
        check_instruction_format("{}", "query_instruction_format")


def test_the_field_that_is_left_out_is_named_with_all_that_are_expected() -> None:
    with pytest.raises(ValueError, match="leaves") as raised:
        check_fields("{0}{2}", ["a", "b", "c"], "it")
    assert str(raised.value) == "it is '{0}{2}', which leaves the b out; expected 3 '{}': a, b, c"


def test_fields_that_are_not_needed_may_be_left_out() -> None:
    check_fields("{0}{2}", ["a", "b", "c"], "it", needed=["a"])


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "instruction_format", ["{}{}", r"Instruct: {}\nQuery: {}", "<instruct>{}\n<query>{}", "{1}{0}"]
)
@pytest.mark.parametrize("instruction", ["", "find: ", r"a\nb"])
def test_the_reference_joins_them_the_same_way(instruction_format: str, instruction: str) -> None:
    from FlagEmbedding import FlagModel

    expected = FlagModel.get_detailed_instruct(instruction_format, instruction, r"te\nxt")
    assert apply_instruction(instruction_format, instruction, r"te\nxt") == expected
