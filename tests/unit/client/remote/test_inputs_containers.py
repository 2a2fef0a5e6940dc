# SPDX-License-Identifier: Apache-2.0
"""Tables, sets and other collections that are no lists, in place of texts and of pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flagtriton.remote.inputs import as_pair_list, as_text_list


class Table:
    """Yields its column names, as pandas' and polars' tables do."""

    columns = ("title", "text")

    def __iter__(self) -> Any:
        return iter(self.columns)


def tables() -> dict[str, Any]:
    """Return a table of each library that is installed."""
    made: dict[str, Any] = {"stand-in": Table()}
    columns = {"title": ["a", "b"], "text": ["c", "d"]}
    for library, make in {
        "pandas": lambda module: module.DataFrame(columns),
        "polars": lambda module: module.DataFrame(columns),
        "pyarrow": lambda module: module.table(columns),
        "datasets": lambda module: module.Dataset.from_dict(columns),
    }.items():
        try:
            made[library] = make(__import__(library))
        except ImportError:
            continue
    if "pyarrow" in made:
        made["record batch"] = made["pyarrow"].to_batches()[0]
    if "datasets" in made:
        import datasets

        made["dict of datasets"] = datasets.DatasetDict(train=made["datasets"])
    return made


TABLES = tables()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_of_texts_is_refused_with_what_to_give(table: Any) -> None:
    with pytest.raises(TypeError, match=r'with the columns title, text; .*give one column, as in df\["text"\]'):
        as_text_list(table, "sentences")


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_of_pairs_is_refused_with_what_to_give(table: Any) -> None:
    with pytest.raises(TypeError, match=r"with the columns title, text; .*give two columns, as in list\(zip"):
        as_pair_list(table, "sentence_pairs")


@pytest.mark.parametrize("given", [{"a", "b"}, frozenset("ab")])
def test_a_set_is_refused_as_it_has_no_order(given: Any) -> None:
    with pytest.raises(TypeError, match="whose order is not the caller's"):
        as_text_list(given, "sentences")


@pytest.mark.parametrize("given", [bytearray(b"a"), memoryview(b"a"), np.array("a")])
def test_what_holds_no_texts_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^sentences is a"):
        as_text_list(given, "sentences")


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_value_is_named_by_its_index(missing: Any) -> None:
    with pytest.raises(TypeError, match=r"^sentences\[1\] is "):
        as_text_list(np.array(["a", missing, "b"], dtype=object), "sentences")


def test_many_columns_are_named_in_part() -> None:
    wide = SimpleNamespace(columns=[f"c{number}" for number in range(900)])
    with pytest.raises(TypeError, match="columns c0, c1, c2, c3, c4, …; expected"):
        as_text_list(wide, "sentences")  # type: ignore[arg-type]


@pytest.mark.parametrize("library", ["pandas", "datasets"])
def test_a_column_is_a_list_of_texts(library: str) -> None:
    if library not in TABLES:
        pytest.skip(f"{library} is not installed")
    assert as_text_list(TABLES[library]["text"], "sentences") == (["c", "d"], False)
