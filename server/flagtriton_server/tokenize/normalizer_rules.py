# SPDX-License-Identifier: Apache-2.0
"""The output of a tokenizer's normalizer for two neighbouring characters that are normalized separately."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from tokenizers import Tokenizer

__all__ = ["Normalization", "UnknownStageError", "is_stable", "normalization"]

Normalization: TypeAlias = Callable[[str, str, bool], "tuple[str, str] | None"]
"""Maps two characters, and whether a space follows the second, to their normalized texts. The result is None if one
character may affect the other."""

_STABLE: Final = re.compile(
    "["
    r"\t\n -~"  # ASCII
    r"\u00a1\u00ab\u00bb\u00bf-\u024f"  # Latin
    r"\u0386-\u03ce\u0400-\u045f"  # Greek, Cyrillic
    r"\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u060c\u061b\u061f"  # Hebrew, Arabic
    r"\u0904-\u0939\u0964\u0e01-\u0e30"  # Devanagari and Thai letters without marks
    r"\u2010-\u2015\u2018-\u201f\u2022\u2026"  # punctuation
    r"\u3001-\u3003\u3008-\u3011\u3014-\u3019\u3041-\u3096\u30a1-\u30fa\u30fc"  # Japanese
    r"\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e"  # ideographs, Hangul syllables, full-width ASCII
    "]"
)
"""Characters that do not compose with each other. Between any two of them a grapheme cluster ends."""

_BY_CHARACTER: Final = frozenset(
    ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "BertNormalizer", "Precompiled", "ByteLevel"]
)
_AT_THE_ENDS: Final = frozenset(["Prepend", "Strip"])
_SPACES: Final = frozenset([r" {2,}", r"\s{2,}", r" +", r"\s+", r"[ ]+", r"[\s]+", r" ", r"\s"])
"""Patterns that match spaces only, and mean the same in Python and in the tokenizers library."""


class UnknownStageError(Exception):
    """A tokenizer has a stage for which this package has no rule."""


def is_stable(character: str) -> bool:
    """Return whether the normalizer treats a character alone when its neighbours are such characters, too."""
    return _STABLE.fullmatch(character) is not None


def normalization(config: dict[str, Any] | None) -> Normalization:
    """Return the effect of a normalizer, given its JSON.

    Raises:
        UnknownStageError: a stage has no rule.
    """
    steps = [_step(stage) for stage in _stages(config)]

    def normalize(before: str, after: str, space_behind: bool) -> tuple[str, str] | None:
        pair = before, after
        for step in steps:
            changed = step(*pair, space_behind)
            if changed is None or not all(changed):
                return None
            pair = changed
        return pair

    return normalize


def _stages(config: dict[str, Any] | None) -> list[dict[str, Any]]:
    if config is None:
        return []
    if config["type"] == "Sequence":
        return [stage for part in config["normalizers"] for stage in _stages(part)]
    return [config]


def _step(config: dict[str, Any]) -> Normalization:
    kind = config["type"]
    if kind in _BY_CHARACTER:
        return _by_character(config)
    if kind in _AT_THE_ENDS:
        return lambda before, after, _: None if before[-1].isspace() else (before, after)
    if kind == "Replace" and "String" in config["pattern"]:
        return _replaced(config["pattern"]["String"], config["content"])
    if kind == "Replace" and config["pattern"].get("Regex") in _SPACES:
        return _spaces_replaced(config["pattern"]["Regex"], config["content"])
    raise UnknownStageError(f"normalizer {kind}")


def _by_character(config: dict[str, Any]) -> Normalization:
    model = {"type": "BPE", "vocab": {}, "merges": []}
    normalize = Tokenizer.from_str(json.dumps({"model": model, "normalizer": config})).normalizer.normalize_str
    return lambda before, after, _: (normalize(before), normalize(after))


def _replaced(pattern: str, content: str) -> Normalization:
    def step(before: str, after: str, _: bool) -> tuple[str, str] | None:
        if len(pattern) > 1 and before[-1] in pattern and after[0] in pattern:
            return None  # a match may contain both characters
        return before.replace(pattern, content), after if len(pattern) > 1 else after.replace(pattern, content)

    return step


def _spaces_replaced(pattern: str, content: str) -> Normalization:
    spaces = re.compile(pattern)

    def step(before: str, after: str, space_behind: bool) -> tuple[str, str] | None:
        if before[-1].isspace() or space_behind:
            return None
        return before, spaces.sub(lambda _: content, after)

    return step
