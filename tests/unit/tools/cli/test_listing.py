# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.cli.listing`: the table of deployments, in terminals of several widths."""

from __future__ import annotations

import pytest
from rich.console import Console

from flagtriton_tools.cli.listing import list_table
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import Entry, add_models, entries
from tests.support.checkpoints.tiny import make_bert

NAMES = ["bge-large-en-v1.5", "multilingual-e5-large-instruct"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    folder = tmp_path_factory.mktemp("listing")
    checkpoint = inspect_checkpoint(str(make_bert(folder / "tiny")))
    for name in NAMES:
        add_models(build(checkpoint, AddOptions(name=name, precision="auto")), folder / "repository")
    return list(entries(folder / "repository"))


def lines(found: list[Entry], width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(list_table(found, width))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [60, 70, 80, 100, 120])
def test_a_deployment_has_one_line_with_its_name_whole_in_any_terminal(found: list[Entry], width: int) -> None:
    header, *rows = lines(found, width)
    assert header.split()[:1] == ["name"]
    assert [row.split()[0] for row in rows] == NAMES
    assert all(("encoder-only-base" in row) is (width > 60) for row in rows)
    assert "…" not in "".join(rows)


def test_a_wide_terminal_has_all_columns(found: list[Entry]) -> None:
    header = lines(found, 400)[0]
    names = ["name", "version", "task", "class", "pooling", "tokens", "precision", "device", "attention", "checkpoint"]
    assert header.split() == names


def test_a_narrow_terminal_keeps_the_precision_that_auto_comes_to(found: list[Entry]) -> None:
    header, *rows = lines(found, 80)
    assert "precision" in header
    assert "attention" not in header
    assert all("auto (" in row for row in rows)
