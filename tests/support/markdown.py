# SPDX-License-Identifier: Apache-2.0
"""Reads the repository's Markdown: prose without code, sentences, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

__all__ = ["Line", "Link", "Sentence", "anchors", "cells", "documents", "headings", "lines", "links", "sentences"]

_FENCE = re.compile(r"^\s*```")
_CODE = re.compile(r"`[^`]+`")
_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)]*)\)")
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|vs)\.")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+(?=[\"'(\[*]*[A-Z0-9`])")


@dataclass(frozen=True)
class Line:
    """One line of a page, with its number and the kind of block that it belongs to.

    Attributes:
        number: counted from 1.
        text: without the line break.
        kind: `code`, `table`, `heading`, `html`, `blank` or `prose`.
    """

    number: int
    text: str
    kind: str


@dataclass(frozen=True)
class Sentence:
    """One sentence of prose.

    Attributes:
        number: the line on which its paragraph begins.
        text: inline code is the word `CODE`; links are their text.
    """

    number: int
    text: str

    @property
    def words(self) -> list[str]:
        """Tokens that hold a letter or a digit."""
        return [word for word in self.text.split() if re.search(r"\w", word)]


@dataclass(frozen=True)
class Link:
    """One link of a page.

    Attributes:
        number: its line.
        target: a path, a URL or an anchor.
    """

    number: int
    target: str


def documents() -> list[Path]:
    """Return the README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines(text: str) -> Iterator[Line]:
    """Yield every line of a page with the kind of its block."""
    in_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if _FENCE.match(line):
            in_code = not in_code
            yield Line(number, line, "code")
        elif in_code:
            yield Line(number, line, "code")
        else:
            yield Line(number, line, _kind(line))


def sentences(text: str) -> Iterator[Sentence]:
    """Yield the sentences of a page's paragraphs and list items."""
    number, block = 0, ""
    for line in [*lines(text), Line(0, "", "blank")]:
        if block and (line.kind != "prose" or _ITEM.match(line.text)):
            yield from (Sentence(number, part) for part in _SENTENCE_END.split(block))
            block = ""
        if line.kind == "prose":
            number = number if block else line.number
            # A code span or a link may go on in the next line, so the block is joined before it is read.
            block = f"{block} {_ITEM.sub('', line.text).strip()}".strip()
        if block:
            block = _plain(block)


def cells(text: str) -> Iterator[Sentence]:
    """Yield the cells of a page's tables."""
    for line in lines(text):
        if line.kind == "table":
            yield from (Sentence(line.number, cell.strip()) for cell in _plain(line.text).split("|") if cell.strip())


def headings(text: str) -> list[str]:
    """Return the headings of a page, without their marks."""
    return [line.text.lstrip("#").strip() for line in lines(text) if line.kind == "heading"]


def anchors(text: str) -> list[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    found: list[str] = []
    for heading in headings(text):
        words = re.sub(r"[^\w\- ]", "", _LINK.sub(r"\1", heading).lower())
        anchor = words.replace(" ", "-")
        repeats = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in found)
        found.append(f"{anchor}-{repeats}" if repeats else anchor)
    return found


def links(text: str) -> list[Link]:
    """Return the links of a page, those of images included; code is left out."""
    found = []
    for line in lines(text):
        if line.kind == "code":
            continue
        without_code = _CODE.sub("CODE", line.text)
        found += [Link(line.number, target) for _, target in _LINK.findall(without_code)]
        found += [Link(line.number, target) for target in re.findall(r'src="([^"]+)"', line.text)]
    return found


def _kind(line: str) -> str:
    stripped = line.strip()
    if not stripped:
        return "blank"
    if stripped.startswith("|"):
        return "table"
    if line.startswith("#"):
        return "heading"
    return "html" if stripped.startswith("<") else "prose"


def _plain(text: str) -> str:
    """Return a text with code spans as one word, links as their text and no emphasis."""
    text = _LINK.sub(r"\1", _CODE.sub("CODE", text)).replace("**", "")
    return _ABBREVIATION.sub(lambda match: match[1].replace(".", ""), text)
