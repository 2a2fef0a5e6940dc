# SPDX-License-Identifier: Apache-2.0
"""Prose of the README and of docs/: short sentences, plain words, lines of at most 100 columns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.markdown import Line, Sentence, cells, documents, headings, lines, sentences
from tests.support.paths import ROOT

MAX_WORDS = 25
MAX_COLUMNS = 100

BANNED = {
    "beside": r"\bbesides?\b",
    "so many": r"\bso many\b",
    "likewise": r"\blikewise\b",
    "anew": r"\banew\b",
    "mend": r"\bmend(?:s|ed|ing)?\b",
    "whatever": r"\bwhatever\b",
    "nobody": r"\bnobody\b",
    "of its own": r"\bof (?:its|their) own\b",
    "told of": r"\btold of\b",
    "what or who as a subject": r"(?:^|[;:,] |\(|\band |\bbut )(?:what|who|whoever)\b(?!.*\?$)",
}
"""Words that readers who learned English at school would stumble over, and the patterns that find them."""


def banned_words(text: str) -> list[str]:
    return [word for word, pattern in BANNED.items() if re.search(pattern, text, re.IGNORECASE)]


def too_wide(line: Line) -> bool:
    """Say whether a line is over the limit; tables and code may be, and the targets of links do not count."""
    text = re.sub(r"\]\([^)]*\)", "]", line.text)
    return line.kind == "prose" and len(text) > MAX_COLUMNS


def too_long(sentence: Sentence) -> bool:
    return len(sentence.words) > MAX_WORDS


@pytest.fixture(params=documents(), ids=lambda path: str(path.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text(encoding="utf-8")


def test_no_sentence_of_a_page_has_more_than_25_words(page: str) -> None:
    assert [(s.number, len(s.words), s.text) for s in sentences(page) if too_long(s)] == []


def test_no_page_uses_a_banned_word(page: str) -> None:
    texts = [*sentences(page), *cells(page), *(Sentence(0, heading) for heading in headings(page))]
    assert [(t.number, found, t.text) for t in texts if (found := banned_words(t.text))] == []


def test_no_line_of_a_page_is_wider_than_100_columns(page: str) -> None:
    assert [(line.number, len(line.text)) for line in lines(page) if too_wide(line)] == []


# The checks themselves.


def test_a_sentence_of_26_words_is_found_across_lines_and_one_of_25_is_not() -> None:
    text = "word " * 12 + "\n" + "word " * 12 + "end.\n\nShort. " + "word " * 25 + "`a b c`.\n"
    assert [s.number for s in sentences(text) if too_long(s)] == [4]


def test_code_tables_and_headings_hold_no_sentences() -> None:
    text = "# A heading\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| c | d |\n\nOne. Two (e.g. this)!\n"
    assert [s.text for s in sentences(text)] == ["One.", "Two (eg this)!"]
    assert [cell.text for cell in cells("| `a` | b c |")] == ["CODE", "b c"]


def test_every_item_of_a_list_begins_a_sentence() -> None:
    assert [s.text for s in sentences("Before:\n- one\n  more\n- two\n")] == ["Before:", "one more", "two"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The tokenizer runs beside the encoder.", ["beside"]),
        ("What is refused gets a code.", ["what or who as a subject"]),
        ("What is refused?", []),
        ("The message says what came.", []),
        ("A queue of its own is mended anew.", ["anew", "mend", "of its own"]),
        ("A recommended queue.", []),
    ],
)
def test_banned_words_are_found_as_words(text: str, words: list[str]) -> None:
    assert banned_words(text) == words


def test_a_wide_line_is_found_unless_its_link_makes_it_wide() -> None:
    wide, linked, table = "a" * 101, f"[a]({'b' * 101})", f"| {'a' * 101} |"
    assert [line.number for line in lines("\n".join([wide, linked, table])) if too_wide(line)] == [1]
