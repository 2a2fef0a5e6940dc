# SPDX-License-Identifier: Apache-2.0
"""What is accepted as texts, and how texts become a tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from flagtriton.texts import as_text_list, text_tensor

LONE_SURROGATE = "\ud83d"


def test_a_str_is_a_list_of_one_and_single() -> None:
    assert as_text_list("a", "sentences") == (["a"], True)


def test_a_list_of_one_is_not_single() -> None:
    assert as_text_list(["a"], "sentences") == (["a"], False)


def test_a_tuple_is_accepted() -> None:
    assert as_text_list(("a", "b"), "sentences") == (["a", "b"], False)


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
