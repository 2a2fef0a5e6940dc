# SPDX-License-Identifier: Apache-2.0
"""Which text a refusal is about, by the caller's index."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flagtriton_server
from flagtriton.errors import InvalidRequestError
from flagtriton.protocol.error_positions import KINDS, at_position, row_of, with_rows
from flagtriton.remote.planning import renumber
from flagtriton.transport.base import ServerAddress
from flagtriton.transport.refusals import refusal

SERVER = Path(flagtriton_server.__file__).parent
NUMBERS = {"index", "row"}
"""What the server's modules call the place of a text in its request."""


def refused(message: str) -> InvalidRequestError:
    return refusal(InvalidRequestError, "m", ServerAddress.parse("grpc://h:1"), message)


def messages_with_a_position() -> list[tuple[str, str]]:
    """Return the module and the message of each error of the server's that names a place, its parts written as `0`."""
    found = []
    for path in SERVER.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "RequestError" and call.args:
                parts = getattr(call.args[0], "values", [])
                names = {ast.unparse(part.value) for part in parts if isinstance(part, ast.FormattedValue)}
                if names & (NUMBERS | {"cut[0]"}):
                    written = [part.value if isinstance(part, ast.Constant) else _shown(part) for part in parts]
                    found.append((path.name, "".join(map(str, written))))
    return found


def _shown(part: ast.expr) -> str:
    name = ast.unparse(part.value)  # type: ignore[attr-defined]
    return "text" if name in ("kind", "batch.kind", "spec.name") else "0"


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_that_begins_with_a_position_is_about_that_row(kind: str) -> None:
    assert row_of(f"{at_position(kind, 12)} has 5 tokens") == 12


@pytest.mark.parametrize("message", ["option 'x' is 3 ", "texts 3 are", "text three is", "text 3", "a text 3 is", ""])
def test_another_message_is_about_no_row(message: str) -> None:
    assert row_of(message) is None


def test_a_kind_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'line'; expected one of text, query"):
        at_position("line", 1)


def test_the_callers_index_stands_in_place_of_the_row() -> None:
    error = refused("pair 1 has 7 tokens; text 1 is another")
    renumber(error, [40, 17, 3])
    assert str(error) == "model 'm' at grpc://h:1: pair 17 has 7 tokens; text 1 is another"
    assert error.index == 17


def test_it_is_put_there_once() -> None:
    error = refused("text 1 is bad")
    renumber(error, [2, 1])
    renumber(error, [5, 6])
    assert (error.said, error.index) == ("text 1 is bad", 1)


def test_a_row_beyond_the_request_is_left_as_it_is() -> None:
    assert with_rows("text 9 is bad", [1, 2]) == "text 9 is bad"


def test_triton_names_the_ensemble_that_was_named_already() -> None:
    error = refused("in ensemble 'm', text 0 is bad")
    renumber(error, [3])
    assert str(error) == "model 'm' at grpc://h:1: text 3 is bad"


def test_the_server_has_messages_with_positions() -> None:
    assert {"requests.py", "cross_encoder_inputs.py", "llm_reranker_inputs.py", "icl_queries.py"} <= {
        module for module, _ in messages_with_a_position()
    }


@pytest.mark.parametrize(("module", "message"), messages_with_a_position())
def test_each_of_the_servers_messages_with_a_position_begins_with_it(module: str, message: str) -> None:
    assert row_of(message) == 0
