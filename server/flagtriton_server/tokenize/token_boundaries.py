# SPDX-License-Identifier: Apache-2.0
"""Places where a text can be cut so that the tokens of its two parts are the tokens of the whole text.

A rule is derived from the JSON of a tokenizer, and from nothing else. It accepts a place only if every stage of the
tokenizer treats both sides separately: added tokens, normalizer, pre-tokenizer and model. A tokenizer with a stage that
is not listed here has no rule, and its texts are never cut. Lengths play no part in a rule.

- Normalizer: it maps one character, or one grapheme cluster, at a time. The characters on both sides of a place belong
  to no larger cluster and compose with no other character (`_STABLE`). Each is therefore normalized as if it stood
  alone.
- Pre-tokenizer: either it always begins a new word at the place, or the two neighbouring characters alone decide.
- Model: words are independent. Some pairs of characters are neighbours in no piece of the vocabulary. Inside a word, no
  merge of BPE and no piece of a unigram model can contain such a pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from flagtriton_server.tokenize.normalizer_rules import Normalization, UnknownStageError, is_stable, normalization
from flagtriton_server.tokenize.pre_tokenizer_rules import WordRule, word_rules

__all__ = ["BoundaryRule", "boundary_rule"]

_CACHED_PLACES: Final = 8_192


@dataclass(frozen=True)
class _Pieces:
    """The vocabulary of a model that builds its pieces from characters.

    Attributes:
        characters: characters that are pieces.
        pairs: `[K]` uint64, sorted: two neighbouring characters of a piece, as 2³² · first + second.
        sums_scores: a left context changes how scores are rounded, so a place is valid only for the part before it.
    """

    characters: frozenset[str]
    pairs: NDArray[np.uint64]
    sums_scores: bool

    def parts(self, before: str, after: str) -> bool:
        """Return whether both characters are pieces, and no piece has the first directly before the second."""
        if before not in self.characters or after not in self.characters:
            return False
        pair = np.uint64((ord(before) << 32) + ord(after))
        place = int(np.searchsorted(self.pairs, pair))
        return place == len(self.pairs) or self.pairs[place] != pair


@dataclass(frozen=True)
class _AddedTokens:
    """Tokens that are found in a text before it is split into words.

    Attributes:
        pairs: two neighbouring characters of an added token, as written or as normalized.
        last: last characters of the added tokens, as written or as normalized.
        single_word: an added token matches only if no letter, digit or underscore stands directly before or after it.
        takes_spaces: an added token includes the spaces before it.
    """

    pairs: frozenset[str]
    last: frozenset[str]
    single_word: bool
    takes_spaces: bool


class BoundaryRule:
    """Decides whether a place in a text is a boundary.

    Args:
        normalize: effect of the normalizer on the characters on both sides of a place.
        words: effect of each stage of the pre-tokenizer between two characters.
        pieces: pieces of the model; None if only words are independent.
        added: added tokens of the tokenizer.
    """

    def __init__(
        self, normalize: Normalization, words: tuple[WordRule, ...], pieces: _Pieces | None, added: _AddedTokens
    ) -> None:
        self._normalize, self._words, self._pieces, self._added = normalize, words, pieces, added
        self._parts = lru_cache(maxsize=_CACHED_PLACES)(self._decide)

    def holds(self, text: str, place: int, *, for_rest: bool = False) -> bool:
        """Return whether the tokens of `text[:place]` are the first tokens of the whole text.

        Args:
            text: a text.
            place: an index from 1 to the length of the text minus 2.
            for_rest: check the rest of the text instead: whether its tokens are the same after any text that ends with
                `text[place - 1]`.
        """
        before, after, behind = text[place - 1], text[place], text[place + 1]
        if not (is_stable(before) and is_stable(after) and is_stable(behind)) or before.isspace():
            return False
        return self._parts(before, after, behind.isspace(), for_rest)

    def _decide(self, before: str, after: str, space_behind: bool, for_rest: bool) -> bool:
        normal = self._normalize(before, after, space_behind)
        if normal is None or self._touches_added(before, after, *normal):
            return False
        if for_rest and self._added.last & {before, normal[0][-1]}:  # a text is split again after an added token
            return False
        last, first = normal[0][-1], normal[1][0]
        decides_alone = True
        for rule in self._words:
            if rule.begins_word(last, first):
                return True
            decides_alone = decides_alone and rule.decides_by_neighbours
            last, first = rule.mapped(last), rule.mapped(first)
        pieces = self._pieces
        if pieces is None or not decides_alone or (for_rest and pieces.sums_scores):
            return False
        return pieces.parts(last, first)

    def _touches_added(self, before: str, after: str, left: str, right: str) -> bool:
        added = self._added
        if before + after in added.pairs or left[-1] + right[0] in added.pairs:
            return True
        if added.single_word and (_is_word(after) or _is_word(right[0])):
            return True
        return added.takes_spaces and left[-1].isspace()


def boundary_rule(backend: Tokenizer) -> BoundaryRule | None:
    """Return the rule of a tokenizer; None if no rule is certain for its parts."""
    try:
        config: dict[str, Any] = json.loads(backend.to_str())
    except Exception:  # a part written in Python cannot be saved; the library raises a bare Exception
        return None
    try:
        return BoundaryRule(
            normalization(config["normalizer"]),
            word_rules(config["pre_tokenizer"]),
            _pieces(config["model"]),
            _added(config["added_tokens"], backend.normalizer and backend.normalizer.normalize_str),
        )
    except UnknownStageError:
        return None


def _pieces(model: Mapping[str, Any]) -> _Pieces | None:
    """Return the pieces for boundaries inside words, or None if only words are known to be independent.

    Raises:
        UnknownStageError: not even words are independent.
    """
    kind = model.get("type")
    if kind in ("WordPiece", "WordLevel"):
        return None
    if kind == "Unigram":
        return _with_pairs([piece for piece, _ in model["vocab"]], sums_scores=True)
    if kind != "BPE" or model.get("dropout"):
        raise UnknownStageError(f"model {kind}")
    if model.get("ignore_merges") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    return _with_pairs(model["vocab"], sums_scores=False)


def _with_pairs(pieces: Iterable[str], *, sums_scores: bool) -> _Pieces:
    listed = list(pieces)
    codes = np.frombuffer("\0".join(listed).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    pairs = np.unique((codes[:-1] << np.uint64(32)) + codes[1:])
    return _Pieces(frozenset(piece for piece in listed if len(piece) == 1), pairs, sums_scores)


def _added(tokens: list[dict[str, Any]], normalize: Callable[[str], str] | None) -> _AddedTokens:
    written = [token["content"] for token in tokens]
    contents = [*written, *(normalize(content) for content in written if normalize)]
    return _AddedTokens(
        frozenset(content[i : i + 2] for content in contents for i in range(len(content) - 1)),
        frozenset(content[-1] for content in contents if content),
        any(token["single_word"] for token in tokens),
        any(token["lstrip"] for token in tokens),
    )


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
