# SPDX-License-Identifier: Apache-2.0
"""The documentation's structure: the index, links and anchors, citations in code, and the first lines of the README."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.markdown import anchors, documents, headings, links
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [*documents(), *(ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
CODE_FOLDERS = ("client", "server", "tools", "tests", "docker", "model_repository")
CODE_SUFFIXES = {".py", ".sh", ".yml", ".yaml", ".toml", ".template", ".json", ".md", ".tpl", ""}

CITATION = re.compile(
    r"\bdocs/(?P<page>[\w-]+\.md)(?P<anchors>#[\w-]+(?:\s+and\s+#[\w-]+)*)?(?:, (?P<heading>[A-Z][\w-]*))?"
)
"""`docs/page.md`, `docs/page.md#one and #two`, or `docs/page.md, Heading`."""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_files() -> Iterator[Path]:
    """Yield the files of the repository that may cite a page, this one aside."""
    roots = [ROOT / name for name in CODE_FOLDERS]
    files = [file for root in roots for file in sorted(root.rglob("*")) if file.is_file()]
    for file in [*files, *sorted(ROOT.glob("*.md")), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        if file.suffix in CODE_SUFFIXES and "__pycache__" not in file.parts and file != Path(__file__):
            yield file


def broken_links(text: str, folder: Path) -> list[str]:
    """Return the relative links of a page that lead nowhere, with the numbers of their lines."""
    broken = []
    for link in links(text):
        if re.match(r"[a-z]+:", link.target):
            continue
        path, _, anchor = link.target.partition("#")
        target = folder / path
        exists = not path or target.exists()
        if not exists or (anchor and anchor not in anchors(read(target) if path else text)):
            broken.append(f"{link.number}: {link.target}")
    return broken


def broken_citations(text: str) -> list[str]:
    """Return the pages, anchors and headings that a text cites and that do not exist."""
    broken = []
    for match in CITATION.finditer(text):
        page = DOCS / match["page"]
        if not page.is_file():
            broken.append(match[0])
            continue
        content = read(page)
        broken += [
            f"{page.name}{a}" for a in re.findall(r"#[\w-]+", match["anchors"] or "") if a[1:] not in anchors(content)
        ]
        heading = match["heading"]
        if heading and not any(each.startswith(heading) for each in headings(content)):
            broken.append(match[0])
    return broken


# The index.


def test_every_page_is_in_the_index_once() -> None:
    listed = [link.target for link in links(read(DOCS / "README.md")) if re.fullmatch(r"[\w-]+\.md", link.target)]
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md") if page.name != "README.md")


def test_the_index_has_its_parts_in_order() -> None:
    assert headings(read(DOCS / "README.md"))[1:] == ["Start", "Use", "Run", "Understand", "Reference"]


def test_the_readme_links_to_the_index() -> None:
    assert "docs/README.md" in [link.target for link in links(read(ROOT / "README.md"))]


# Links and citations.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_resolves(page: Path) -> None:
    assert broken_links(read(page), page.parent) == []


def test_code_cites_only_pages_and_sections_that_exist() -> None:
    cited = {str(file.relative_to(ROOT)): broken_citations(read(file)) for file in code_files()}
    assert {file: broken for file, broken in cited.items() if broken} == {}


def test_modules_named_by_the_architecture_page_exist() -> None:
    roots = [ROOT, ROOT / "client/flagtriton", ROOT / "server/flagtriton_server", ROOT / "tools/flagtriton_tools"]
    for page in ("architecture.md", "reference-behaviour.md"):
        named = set(re.findall(r"[\w./]+\.py\b", read(DOCS / page)))
        assert named
        assert [name for name in sorted(named) if not any((root / name).is_file() for root in roots)] == []


# The README's first lines.


def first_line(text: str, fence: str) -> int:
    """Return the number of the line that opens the first block of a language."""
    return next(number for number, line in enumerate(text.splitlines(), start=1) if line == f"```{fence}")


def test_the_readme_shows_a_printed_result_by_line_20_and_python_by_line_40() -> None:
    readme = read(ROOT / "README.md")
    assert first_line(readme, "text") <= 20
    assert first_line(readme, "python") <= 40


# The checks themselves.


def test_a_link_to_a_missing_page_anchor_or_heading_is_found() -> None:
    text = "# `One` part, two\n\n[a](#one-part-two) [b](#three)\n[c](sdk.md#names) [d](sdk.md#no)\n[e](no.md)\n"
    assert broken_links(text, DOCS) == ["3: #three", "4: sdk.md#no", "5: no.md"]


def test_links_inside_code_do_not_count() -> None:
    assert broken_links("`[a](b.md)`\n\n```\n[c](d.md)\n```\n", DOCS) == []


def test_repeated_headings_get_numbered_anchors() -> None:
    assert anchors("# A\n\n## B c\n\n## B c\n") == ["a", "b-c", "b-c-1"]


def test_a_citation_of_a_missing_page_anchor_or_heading_is_found() -> None:
    assert broken_citations("docs/sdk.md, docs/operations.md, Overload, docs/sdk.md#names and\n#errors") == []
    assert broken_citations("docs/operations.md, Nothing") == ["docs/operations.md, Nothing"]
    assert broken_citations("docs/sdk.md#names and #no, docs/none.md") == ["sdk.md#no", "docs/none.md"]
