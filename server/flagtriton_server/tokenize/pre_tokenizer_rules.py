# SPDX-License-Identifier: Apache-2.0
"""The effect of a tokenizer's pre-tokenizer between two neighbouring characters: split, join or neither."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from flagtriton_server.tokenize.normalizer_rules import UnknownStageError

__all__ = ["WordRule", "word_rules"]

_Pair: TypeAlias = Callable[[str, str], bool]


@dataclass(frozen=True)
class WordRule:
    """One stage of a pre-tokenizer.

    Attributes:
        begins_word: whether a word certainly begins with the second of two characters, and the first has no part in it.
        mapped: the text that the stage writes in place of a character.
        decides_by_neighbours: whether these two characters alone decide if the stage splits between them.
    """

    begins_word: _Pair
    mapped: Callable[[str], str] = lambda character: character
    decides_by_neighbours: bool = True


_TO_SPACES: Final = frozenset([r"\s+", r"\s+(?!\S)", r"\s*[\r\n]+", r"\s*[\r\n]", r"\s"])
_SYMBOLS: Final = frozenset(
    [
        r" ?[^\s\p{L}\p{N}]+",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r" ?[^\s\p{L}\p{N}]++[\r\n]*",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    ]
)
_LETTERS_AND_DIGITS: Final = frozenset(
    [
        r" ?\p{L}+",
        r" ?\p{N}+",
        r"\p{L}+",
        r"\p{N}",
        r"\p{N}+",
        r"\p{N}{1,2}",
        r"\p{N}{1,3}",
        r"\p{N}{1,3}+",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    ]
)
_CONTRACTIONS: Final = frozenset(
    [*["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"], "(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"]
)
_KNOWN: Final = _TO_SPACES | _SYMBOLS | _LETTERS_AND_DIGITS | _CONTRACTIONS
"""The alternatives of published patterns (GPT-2, cl100k, o200k, Llama 3, Qwen, Tekken). No match of them has a letter
or digit directly before a space, a line break, or a symbol other than the apostrophe."""


def word_rules(config: dict[str, Any] | None) -> tuple[WordRule, ...]:
    """Return the effect of each stage of a pre-tokenizer, given its JSON.

    Raises:
        UnknownStageError: a stage has no rule.
    """
    stages = _stages(config)
    unknown = [stage["type"] for stage in stages if stage["type"] not in _RULES]
    writes_bytes = any(stage["type"] == "ByteLevel" for stage in stages[:-1])
    if unknown or writes_bytes:  # after ByteLevel, characters are not those of the text
        raise UnknownStageError(f"pre-tokenizer {[stage['type'] for stage in stages]}")
    return tuple(_RULES[stage["type"]](stage) for stage in stages)


def _stages(config: dict[str, Any] | None) -> list[dict[str, Any]]:
    if config is None:
        return []
    if config["type"] == "Sequence":
        return [stage for part in config["pretokenizers"] for stage in _stages(part)]
    return [config]


def _at_spaces(config: dict[str, Any]) -> WordRule:
    return WordRule(lambda before, after: before.isspace() or after.isspace())


def _metaspace(config: dict[str, Any]) -> WordRule:
    sign = config["replacement"]
    splits = config.get("split", True)
    return WordRule(
        lambda before, after: splits and after in (" ", sign),
        mapped=lambda character: sign if character == " " else character,
    )


def _byte_level(config: dict[str, Any]) -> WordRule:
    splits = config.get("use_regex", True)
    return WordRule(lambda before, after: splits and _ends_match(before, after), decides_by_neighbours=False)


def _split(config: dict[str, Any]) -> WordRule:
    pattern = config["pattern"]
    if "String" in pattern:
        return _split_at(pattern["String"], config["behavior"], config["invert"])
    if config["behavior"] != ("Removed" if config["invert"] else "Isolated"):
        raise UnknownStageError("pre-tokenizer Split")
    alternatives = set(_alternatives(pattern["Regex"]))
    if not alternatives <= _KNOWN:
        raise UnknownStageError("pre-tokenizer Split")
    # If no alternative matches a character, a place may lie inside an unmatched run.
    complete = r"\s+" in alternatives and bool(alternatives & _SYMBOLS)
    return WordRule(lambda before, after: complete and _ends_match(before, after), decides_by_neighbours=False)


def _split_at(pattern: str, behavior: str, invert: bool) -> WordRule:
    if len(pattern) != 1 or invert:
        raise UnknownStageError("pre-tokenizer Split")
    begins = behavior in ("Isolated", "MergedWithNext", "Removed")
    return WordRule(lambda before, after: begins and after == pattern)


def _neutral(config: dict[str, Any]) -> WordRule:
    return WordRule(lambda before, after: False)


_RULES: Final[dict[str, Callable[[dict[str, Any]], WordRule]]] = {
    "BertPreTokenizer": _at_spaces,
    "ByteLevel": _byte_level,
    "Digits": _neutral,
    "Metaspace": _metaspace,
    "Punctuation": _neutral,
    "Split": _split,
    "Whitespace": _at_spaces,
    "WhitespaceSplit": _at_spaces,
}


def _ends_match(before: str, after: str) -> bool:
    """Return whether a match of every known pattern ends between two characters."""
    if unicodedata.category(before)[0] not in "LN":
        return False
    return after in " \n" or (after != "'" and unicodedata.category(after)[0] in "PS")


def _alternatives(regex: str) -> list[str]:
    """Return the alternatives of a pattern, without a split inside a group or a character class."""
    parts, depth, in_class, begun = [], 0, False, 0
    for index, character in enumerate(regex):
        if index and regex[index - 1] == "\\":
            continue
        if character in "[]":
            in_class = character == "["
        elif not in_class and character in "()":
            depth += 1 if character == "(" else -1
        elif not in_class and depth == 0 and character == "|":
            parts.append(regex[begun:index])
            begun = index + 1
    return [*parts, regex[begun:]]
