# SPDX-License-Identifier: Apache-2.0
"""What is accepted as texts, and how texts become a tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flagtriton.protocol.text import text_sizes, text_tensor
from flagtriton.remote.inputs import as_pair_list, as_text_list

LONE_SURROGATE = "\ud83d"


def test_a_str_is_a_list_of_one_and_single() -> None:
    assert as_text_list("a", "sentences") == (["a"], True)


def test_a_list_of_one_is_not_single() -> None:
    assert as_text_list(["a"], "sentences") == (["a"], False)


def test_a_tuple_is_accepted() -> None:
    assert as_text_list(("a", "b"), "sentences") == (["a", "b"], False)


def test_an_arrow_array_is_accepted() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": ["a", "b"], "other": ["c", "d"]})
    assert as_text_list(table["text"], "texts") == (["a", "b"], False)
    assert as_text_list(pyarrow.array(["a", "b"]), "texts") == (["a", "b"], False)
    assert as_pair_list(pyarrow.array([["a", "b"]]), "pairs") == ([("a", "b")], False)
    with pytest.raises(TypeError, match=r"texts\[1\] is None \(NoneType\)"):
        as_text_list(pyarrow.array(["a", None]), "texts")


@pytest.mark.parametrize("pair", [deque(["a", "b"]), np.array(["a", "b"])])
def test_any_sequence_of_two_texts_is_a_pair(pair: Any) -> None:
    assert as_pair_list([pair], "pairs") == ([("a", "b")], False)


def test_an_array_without_axes_is_no_pair() -> None:
    with pytest.raises(TypeError, match=r"pairs\[0\] is .*expected a query and a passage"):
        as_pair_list([np.array("x")], "pairs")


def test_a_generator_is_accepted() -> None:
    def letters() -> Iterator[str]:
        yield "a"
        yield "b"

    assert as_text_list(letters(), "sentences") == (["a", "b"], False)


@pytest.mark.parametrize("dtype", [np.str_, np.object_])
def test_an_array_of_str_is_accepted(dtype: type) -> None:
    assert as_text_list(np.array(["a", "é"], dtype=dtype), "sentences") == (["a", "é"], False)


def test_a_series_of_str_is_accepted() -> None:
    pandas = pytest.importorskip("pandas")
    assert as_text_list(pandas.Series(["a", "b"], index=[7, 9]), "sentences") == (["a", "b"], False)


def test_an_empty_list_is_accepted() -> None:
    assert as_text_list([], "sentences") == ([], False)


def test_an_empty_text_is_accepted() -> None:
    assert as_text_list([""], "sentences") == ([""], False)


def test_the_caller_keeps_their_own_list() -> None:
    given = ["a"]
    texts, _ = as_text_list(given, "sentences")
    texts.append("b")
    assert given == ["a"]


@pytest.mark.parametrize("value", [None, 3, 1.5, b"a", {"a": 1}])
def test_what_is_no_collection_of_texts_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(TypeError, match=f"^queries is a {type(value).__name__}; expected a str or a list of str$"):
        as_text_list(value, "queries")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, r"None \(NoneType\)"), (7, r"7 \(int\)"), (b"x", r"b'x' \(bytes\)"), (["q", "p"], "list")],
)
def test_an_element_that_is_no_str_is_named_by_its_index(value: object, shown: str) -> None:
    with pytest.raises(TypeError, match=rf"^corpus\[2\] is .*{shown}"):
        as_text_list(["a", "b", value], "corpus")  # type: ignore[list-item]


def test_a_long_wrong_element_is_shown_in_part() -> None:
    with pytest.raises(TypeError) as caught:
        as_text_list([list(range(1000))], "corpus")  # type: ignore[list-item]
    assert len(str(caught.value)) < 120


def test_an_array_of_two_dimensions_is_refused() -> None:
    with pytest.raises(TypeError, match=r"sentences\[0\] is .*ndarray"):
        as_text_list(np.array([["a", "b"]]), "sentences")


def test_a_lone_surrogate_is_named_by_index_and_position() -> None:
    with pytest.raises(ValueError, match=r"^sentences\[1\] holds a lone surrogate, U\+D83D, at position 2$"):
        as_text_list(["a", f"bc{LONE_SURROGATE}"], "sentences")


def test_a_lone_surrogate_in_a_lone_str_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D83D, at position 0"):
        as_text_list(LONE_SURROGATE, "sentences")


def test_characters_beyond_the_basic_plane_are_accepted() -> None:
    assert as_text_list("🙂", "sentences") == (["🙂"], True)


def test_a_tensor_of_texts_is_a_column_of_utf8_bytes() -> None:
    # é is U+00E9, two bytes in UTF-8.
    assert text_tensor(["a", "é", ""]).tolist() == [[b"a"], [b"\xc3\xa9"], [b""]]


def test_a_tensor_of_texts_has_the_dtype_that_triton_takes_for_bytes() -> None:
    assert text_tensor(["a"]).dtype == np.object_


def test_a_nul_character_at_the_end_of_a_text_survives() -> None:
    # A fixed-width NumPy string would drop it.
    assert text_tensor(["a\0"]).tolist() == [[b"a\0"]]


@pytest.mark.parametrize(("text", "size"), [("", 0), ("abc", 3), ("é", 2), ("日本", 6), ("🙂", 4)])
def test_a_texts_size_is_its_bytes_in_utf8(text: str, size: int) -> None:
    assert text_sizes([text]).tolist() == [size]


# Pairs.


@pytest.mark.parametrize("pair", [("q", "p"), ["q", "p"], np.array(["q", "p"])])
def test_a_lone_pair_is_a_list_of_one_and_single(pair: Any) -> None:
    assert as_pair_list(pair, "sentence_pairs") == ([("q", "p")], True)


def test_a_list_of_one_pair_is_not_single() -> None:
    assert as_pair_list([("q", "p")], "sentence_pairs") == ([("q", "p")], False)


@pytest.mark.parametrize(
    "pairs",
    [
        [["q", "p"], ("r", "s")],
        (("q", "p"), ("r", "s")),
        np.array([["q", "p"], ["r", "s"]]),
        np.array([["q", "p"], ["r", "s"]], dtype=object),
        zip("qr", "ps", strict=True),
    ],
)
def test_pairs_come_in_any_collection_and_leave_as_tuples(pairs: Any) -> None:
    assert as_pair_list(pairs, "sentence_pairs") == ([("q", "p"), ("r", "s")], False)


@pytest.mark.parametrize("nothing", [[], (), iter([])])
def test_no_pairs_are_accepted(nothing: Any) -> None:
    assert as_pair_list(nothing, "sentence_pairs") == ([], False)


@pytest.mark.parametrize("given", [("q", "p", "more"), [("q", "p", "more")], [["q", "p", 3]]])
def test_a_third_member_is_refused_by_the_pairs_index(given: Any) -> None:
    with pytest.raises(TypeError, match=r"sentence_pairs\[0\] is .* expected a query and a passage, two str"):
        as_pair_list(given, "sentence_pairs")


def test_empty_texts_make_a_pair() -> None:
    assert as_pair_list(("", ""), "sentence_pairs") == ([("", "")], True)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, r"None \(NoneType\)"),
        (3, r"3 \(int\)"),
        ("qp", r"'qp' \(str\)"),
        (b"qp", r"b'qp' \(bytes\)"),
        ({"q": "p"}, r"\{'q': 'p'\} \(dict\)"),
    ],
)
def test_what_is_no_collection_of_pairs_is_refused(given: Any, shown: str) -> None:
    with pytest.raises(TypeError, match=f"^sentence_pairs is {shown}; expected pairs of str$"):
        as_pair_list(given, "sentence_pairs")


@pytest.mark.parametrize(
    "bad", [("q",), [], "qp", b"qp", {"q": 1, "p": 2}, ("q", None), (3, "p"), ("q", b"p"), None, 7, (("q", "p"), "r")]
)
def test_a_pair_that_is_not_two_str_is_named_by_its_index(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"^sentence_pairs\[1\] is .*; expected a query and a passage, two str$"):
        as_pair_list([("q", "p"), bad], "sentence_pairs")


@pytest.mark.parametrize("alone", [["q"], ("q", 3)])
def test_a_lone_pair_that_is_not_two_str_is_refused(alone: Any) -> None:
    with pytest.raises(TypeError, match=r"^sentence_pairs\[0\] is .*; expected a query and a passage, two str$"):
        as_pair_list(alone, "sentence_pairs")


@pytest.mark.parametrize(("pair", "side"), [((LONE_SURROGATE, "p"), "query"), (("q", LONE_SURROGATE), "passage")])
def test_a_lone_surrogate_in_a_pair_is_named_by_its_side(pair: tuple[str, str], side: str) -> None:
    with pytest.raises(ValueError, match=rf"^the {side} of sentence_pairs\[1\] holds a lone surrogate, U\+D83D"):
        as_pair_list([("q", "p"), pair], "sentence_pairs")


def test_a_set_is_no_pair() -> None:
    with pytest.raises(TypeError, match=r"pairs\[0\] is .* \(set\); expected a query and a passage"):
        as_pair_list([{"a", "b"}], "pairs")  # type: ignore[list-item]
