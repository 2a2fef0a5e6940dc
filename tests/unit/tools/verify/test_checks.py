# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.verify.checks` and `texts`: what counts as equal, by numbers that can be read off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.verify.checks import (
    Limits,
    compare_ids,
    compare_numbers,
    compare_vectors,
    compare_weights,
    skipped,
)
from flagtriton_tools.verify.texts import pairs_of, read_texts

FULL, HALF = Limits.of("fp32"), Limits.of("bf16")


def vectors(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_equal_ids_are_equal() -> None:
    check = compare_ids("ids", ["a", "b"], [[1], [2, 3]], [[1], [2, 3]])
    assert (check.ok, check.compared, check.detail) == (True, 2, "")


@pytest.mark.parametrize(
    ("ours", "detail"),
    [
        ([2, 4], "text 1 'b': 2 tokens served, 2 expected, unlike from token 1 on"),
        ([2], "text 1 'b': 1 tokens served, 2 expected, unlike at the end"),
    ],
)
def test_other_ids_are_named_by_text_and_place(ours: list[int], detail: str) -> None:
    check = compare_ids("ids", ["a", "b"], [[1], ours], [[1], [2, 3]])
    assert (check.ok, check.detail) == (False, detail)


@pytest.mark.parametrize(("off", "full", "half"), [(5e-6, True, True), (5e-5, False, True), (0.1, False, False)])
def test_vectors_may_differ_by_what_the_precision_allows(off: float, full: bool, half: bool) -> None:
    ours, theirs = vectors([1, 0], [0, 1]), vectors([1, 0], [off, 1])
    checks = [compare_vectors("dense", ["a", "b"], ours, theirs, limits) for limits in (FULL, HALF)]
    assert [check.ok for check in checks] == [full, half]
    assert checks[0].difference == pytest.approx(off, rel=1e-4)


def test_the_worst_text_is_named() -> None:
    check = compare_vectors("dense", ["a", "b"], vectors([1, 0], [0, 1]), vectors([1, 0], [1, 0]), FULL)
    assert (check.ok, check.cosine, check.detail) == (False, 0.0, "text 1 'b'")


def test_another_width_and_numbers_that_are_none_differ() -> None:
    wide = compare_vectors("dense", ["a"], vectors([1, 0, 0]), vectors([1, 0]), FULL)
    nan = compare_vectors("dense", ["a"], vectors([np.nan, 0]), vectors([1, 0]), FULL)
    assert (wide.ok, wide.detail) == (False, "3 components served, 2 expected")
    assert (nan.ok, nan.detail) == (False, "served vectors are not finite")


def test_a_missing_lexical_weight_counts_as_0() -> None:
    assert compare_weights("w", ["a"], [{1: 0.5}], [{1: 0.5, 2: 0.00005}], FULL).ok
    assert not compare_weights("w", ["a"], [{1: 0.5}], [{1: 0.5, 2: 0.1}], HALF).ok
    assert not compare_weights("w", ["a"], [{1: float("nan")}], [{1: 0.5}], HALF).ok


@pytest.mark.parametrize(("off", "full", "half"), [(5e-4, True, True), (0.1, False, True), (1.0, False, False)])
def test_scores_may_differ_by_a_part_of_the_largest(off: float, full: bool, half: bool) -> None:
    ours, theirs = np.array([-10.0, 2.0 + off]), np.array([-10.0, 2.0])
    pairs = [("a", "b"), ("c", "d")]
    assert [compare_numbers("s", pairs, ours, theirs, limits).ok for limits in (FULL, HALF)] == [full, half]


def test_a_score_that_is_no_number_differs() -> None:
    check = compare_numbers("s", [("a", "b")], np.array([np.nan]), np.array([1.0]), HALF)
    assert (check.ok, check.detail) == (False, "pair 0 'a' with 'b'")


def test_what_was_not_compared_is_neither_equal_nor_different() -> None:
    assert (skipped("x", "why").ok, skipped("x", "why").detail) == (None, "why")


def test_texts_are_lines_with_breaks_spelled_out(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a\\nb\n\nc\\td\n", encoding="utf-8")
    assert read_texts(tmp_path / "texts") == ["a\nb", "", "c\td"]


@pytest.mark.parametrize(("content", "words"), [(b"", "has no line"), (b"\xff", "cannot be read as UTF-8")])
def test_a_file_without_texts_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(ToolError, match=words):
        read_texts(tmp_path / "texts")


def test_pairs_are_of_the_first_text_and_of_neighbours() -> None:
    assert pairs_of(["a", "b", "c"]) == [("a", "a"), ("a", "b"), ("a", "c"), ("b", "c")]
