# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.examples`: few-shot examples and the text that they become."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flagtriton.protocol.examples import (
    DEFAULT_EXAMPLE_FORMAT,
    Example,
    check_example_format,
    check_examples,
    examples_prefix,
    format_example,
)

PLAIN = "{}|{}|{}"

THREE = [
    {"instruct": "find", "query": "a?", "response": "an a"},
    {"query": "b?", "response": r"two\nlines {}"},
    {"instruct": "", "note": "ignored"},
]


def test_an_example_is_instruction_query_and_response_in_this_order() -> None:
    assert format_example(DEFAULT_EXAMPLE_FORMAT, "i", "q", "r") == "<instruct>i\n<query>q\n<response>r"


def test_a_literal_backslash_n_in_the_format_is_a_newline_and_elsewhere_stays() -> None:
    assert format_example(r"{}\n{}\n{}", r"i\n", r"q\n", r"r\n") == "i\\n\nq\\n\nr\\n"


def test_no_instruction_is_the_text_none() -> None:
    assert format_example(PLAIN, None, "q", "r") == "None|q|r"


def test_braces_in_an_example_stay() -> None:
    assert format_example(PLAIN, "{}", "{0}", "{x}") == "{}|{0}|{x}"


def test_a_format_of_four_fields_is_an_error() -> None:
    with pytest.raises(IndexError):
        format_example("{}{}{}{}", "i", "q", "r")


def test_no_examples_are_no_prefix() -> None:
    assert examples_prefix(None, PLAIN, "i") == ""


def test_an_empty_list_of_examples_is_an_empty_line() -> None:
    assert examples_prefix([], PLAIN, "i") == "\n\n"


def test_an_example_is_followed_by_an_empty_line() -> None:
    assert examples_prefix([{"instruct": "x", "query": "q", "response": "r"}], PLAIN, "i") == "x|q|r\n\n"


def test_an_empty_line_stands_between_examples_too() -> None:
    assert examples_prefix([{"query": "a"}, {"query": "b"}], PLAIN, "i") == "i|a|\n\ni|b|\n\n"


@pytest.mark.parametrize(
    ("example", "written"),
    [({}, "i||"), ({"instruct": "x"}, "x||"), ({"query": "q"}, "i|q|"), ({"response": "r"}, "i||r")],
)
def test_a_missing_key_is_the_instruction_or_an_empty_text(example: Example, written: str) -> None:
    assert examples_prefix([example], PLAIN, "i") == f"{written}\n\n"


def test_a_number_is_written_out_as_flagembedding_does() -> None:
    assert examples_prefix([{"query": 1, "response": 2.5}], PLAIN, "i") == "i|1|2.5\n\n"


def test_an_instruction_of_an_examples_own_may_be_empty_or_none() -> None:
    assert examples_prefix([{"instruct": ""}, {"instruct": None}], PLAIN, "i") == "||\n\nNone||\n\n"


@pytest.mark.parametrize("examples", [[], (), [{}], tuple(THREE[:2])])
def test_lists_of_dicts_are_examples(examples: Any) -> None:
    assert check_examples(examples, "it") == []


def test_keys_that_mean_nothing_are_returned_in_order() -> None:
    assert check_examples([{"zeta": 1}, {"query": "q", "Query": "Q", 3: ""}], "it") == ["3", "Query", "zeta"]


def test_keys_that_mean_nothing_are_refused_where_told() -> None:
    with pytest.raises(ValueError, match=r"^it has the key 'a'; an example has instruct, query, response$"):
        check_examples([{"b": ""}, {"a": ""}], "it", strict=True)


def test_keys_that_mean_something_are_not_refused_where_told() -> None:
    assert check_examples([{"instruct": "", "query": "", "response": ""}], "it", strict=True) == []


@pytest.mark.parametrize(("examples", "kind"), [("ab", "str"), (b"ab", "bytes"), ({"query": "q"}, "dict"), (3, "int")])
def test_what_is_no_list_is_named_by_its_type(examples: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"^it is a {kind}; expected a list of dicts with instruct, query, response$"):
        check_examples(examples, "it")


def test_what_is_no_dict_is_named_by_its_index() -> None:
    with pytest.raises(TypeError, match=r"^it\[1\] is 'q' \(str\); expected a dict with instruct, query, response$"):
        check_examples([{}, "q"], "it")


@pytest.mark.parametrize("example_format", [DEFAULT_EXAMPLE_FORMAT, PLAIN, "{2}{1}{0}", r"{}\n{}\n{}"])
def test_a_format_of_three_fields_is_one(example_format: str) -> None:
    check_example_format(example_format, "it")


@pytest.mark.parametrize(
    ("example_format", "said"),
    [
        ("{}{}", "leaves the response out"),
        ("{0}{2}{2}", "leaves the query out"),
        ("{2}{1}", "leaves the instruct out"),
        ("{}{}{}{}", "has other fields"),
        ("{instruct}{query}{response}", "has other fields"),
    ],
)
def test_another_format_is_refused_with_what_it_lacks(example_format: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^it is .*, which {said}.*; expected 3 '{{}}': instruct, query, response$"):
        check_example_format(example_format, "it")


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("example_format", [DEFAULT_EXAMPLE_FORMAT, r"{}\n{}\n{}", "{2}{1}"])
@pytest.mark.parametrize("instruction", [None, "", r"a\nb"])
def test_the_reference_writes_an_example_the_same_way(example_format: str, instruction: Any) -> None:
    from FlagEmbedding import FlagICLModel

    expected = FlagICLModel.get_detailed_example(example_format, instruction, "{}", r"r\n")
    assert format_example(example_format, instruction, "{}", r"r\n") == expected


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("examples", [None, [], THREE[:1], THREE], ids=["none", "empty", "one", "three"])
@pytest.mark.parametrize("instruction", [None, "i"])
@pytest.mark.parametrize("as_argument", [False, True])
def test_the_reference_makes_the_same_prefix(examples: Any, instruction: str | None, as_argument: bool) -> None:
    from FlagEmbedding import FlagICLModel

    theirs = SimpleNamespace(
        examples_for_task=None if as_argument else examples,
        examples_instruction_format=r"{}\n{}|{}",
        query_instruction_for_retrieval=instruction,
        get_detailed_example=FlagICLModel.get_detailed_example,
    )
    FlagICLModel.set_examples(theirs, examples if as_argument else None)
    assert examples_prefix(examples, r"{}\n{}|{}", instruction) == theirs.prefix
