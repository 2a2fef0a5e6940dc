# SPDX-License-Identifier: Apache-2.0
"""How an instruction and a text are joined."""

from __future__ import annotations

import pytest

from flagtriton.instructions import apply_instruction


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
