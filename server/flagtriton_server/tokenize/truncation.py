# SPDX-License-Identifier: Apache-2.0
"""The tokens at one end of a long text, without those of the rest. Imports no torch.

A window at that end is tokenised, which grows until it has more tokens than are kept. It ends at a boundary, so its
tokens are the text's. Where a text has no boundary, all of it is tokenised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from tokenizers import Tokenizer

from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.token_boundaries import BoundaryRule, boundary_rule

__all__ = ["UNBOUNDED", "TextCutter", "TextSize", "TextTooLongError", "window"]

_CHARACTERS_OF_A_TOKEN: Final = 8
"""More than most texts have, so that the first window is usually enough."""

_LEAST_WINDOW: Final = 256
_CANDIDATES: Final = 256
"""Places that are looked at from the end of a window; if none is a boundary, the window grows."""

_PORTION: Final = 8_192
"""Characters that are tokenised within some 10 ms, after which others may pass."""

_AT_ONCE: Final = 8 * _PORTION
"""Characters of one text that are; more are left to another thread."""

_WAIT_S: Final = 0.005
"""How often that thread's waiter lets others pass."""


@dataclass(frozen=True)
class TextSize:
    """How much of a text may be tokenised.

    Attributes:
        max_bytes: of the text that a client sent, UTF-8; None is no limit.
        instruction_bytes: of what a deployment or request has put around it.
    """

    max_bytes: int | None = None
    instruction_bytes: int = 0

    def excess(self, text: str) -> int | None:
        """Return the bytes of the client's text where they are too many, else None."""
        if self.max_bytes is None or 4 * len(text) <= self.max_bytes:
            return None
        size = len(text.encode()) - self.instruction_bytes
        return size if size > self.max_bytes else None

    def characters(self, text: str, *, from_left: bool) -> int:
        """Return how many characters at one end of a text that is too long may be tokenised."""
        most = (self.max_bytes or 0) + self.instruction_bytes
        encoded = text.encode()
        return len((encoded[:most] if from_left else encoded[-most:]).decode(errors="ignore"))


UNBOUNDED: Final = TextSize()


class TextTooLongError(Exception):
    """A text is longer than may be tokenised, and cannot be cut.

    Attributes:
        index: of the text among its request's.
        size: of the text, bytes.
        max_bytes: what it may have.
    """

    def __init__(self, index: int, size: int, max_bytes: int) -> None:
        super().__init__(f"text {index} has {size} bytes, of at most {max_bytes}")
        self.index, self.size, self.max_bytes = index, size, max_bytes

    def of(self, index: int) -> TextTooLongError:
        """Return the same of the text that is called by another number."""
        return TextTooLongError(index, self.size, self.max_bytes)

    def refusal(self, kind: str) -> RequestError:
        """Return the answer to the request, which calls its texts `kind`."""
        return RequestError(
            f"{kind} {self.index} has {self.size} bytes; this model takes {self.max_bytes}: cut it, or deploy the "
            "model with a greater --max-text-bytes"
        )


class TextCutter:
    """Tokenises long texts.

    Args:
        backend: the tokenizer, which neither pads nor truncates.
        from_left: whether the first tokens of a text are kept, or the last.

    Attributes:
        pass_: called between texts, where others may pass.
    """

    def __init__(self, backend: Tokenizer, *, from_left: bool) -> None:
        self._backend, self._rule, self._from_left = backend, boundary_rule(backend), from_left
        self.pass_: Callable[[], None] = lambda: None
        self._characters = 0

    def long_ones(self, texts: Sequence[str], at_most: int, size: TextSize) -> list[int]:
        """Return which texts are better not tokenised as a whole, where so many tokens of each are kept."""
        usual = window(at_most) if size.max_bytes is None else min(window(at_most), size.max_bytes // 4)
        if max(map(len, texts), default=0) <= usual:
            return []
        return [i for i, text in enumerate(texts) if len(text) > window(at_most) or size.excess(text) is not None]

    def characters(self, texts: Sequence[str], at_most: int) -> int:
        """Return how many characters of texts are tokenised, about, where so many tokens of each are kept."""
        most = window(at_most)
        if self._rule is None or max(map(len, texts), default=0) <= most:
            return sum(map(len, texts))
        return sum(min(len(text), most) for text in texts)

    def portions(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Yield the texts in portions that take some 10 ms each, between which others may pass."""
        begun, characters = 0, 0
        if sum(map(len, texts)) > _PORTION:
            for index, text in enumerate(texts):
                if characters + len(text) > _PORTION and index > begun:
                    self._pause(characters)
                    yield texts[begun:index]
                    begun, characters = index, 0
                characters += len(text)
        if begun < len(texts):
            self._pause(characters)
            yield texts[begun:] if begun else texts

    def ids(self, text: str, at_most: int, size: TextSize, index: int) -> list[int]:
        """Return a text's tokens; if they are more than `at_most`, then at least one more at the end that is kept.

        Raises:
            TextTooLongError: more of the text would have to be tokenised than may be.
        """
        excess = size.excess(text)
        most = len(text) - 1 if excess is None else size.characters(text, from_left=self._from_left)
        width = min(window(at_most), most)
        while self._rule is not None and width > 0:
            ids = self._ids_within(text, width, self._rule)
            if ids is not None and len(ids) > at_most:
                return ids
            if width == most:
                break
            width = min(2 * width, most)
        if excess is not None:
            raise TextTooLongError(index, excess, size.max_bytes or 0)
        return self._encoded(text)

    def _ids_within(self, text: str, width: int, rule: BoundaryRule) -> list[int] | None:
        """Return the tokens of at most so many characters at the end that is kept; None where there is no boundary."""
        if self._from_left:
            last = min(width, len(text) - 2)
            places = range(last, max(0, last - _CANDIDATES), -1)
            place = next((place for place in places if rule.holds(text, place)), None)
            return None if place is None else self._encoded(text[:place])
        first = max(1, len(text) - width + 1)
        places = range(first, min(len(text) - 1, first + _CANDIDATES))
        place = next((place for place in places if rule.holds(text, place, for_rest=True)), None)
        if place is None:
            return None
        before = len(self._encode(text[place - 1]))
        return self._encoded(text[place - 1 :])[before:]

    def _encoded(self, text: str) -> list[int]:
        self._pause(len(text))
        if len(text) <= _AT_ONCE:
            return self._encode(text)
        encoding = self._thread.submit(self._encode, text)
        while not encoding.done():
            self.pass_()
            wait([encoding], _WAIT_S)
        return encoding.result()

    def _encode(self, text: str) -> list[int]:
        return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def _pause(self, characters: int) -> None:
        """Let others pass before so many characters, if there were enough since they could last."""
        if self._characters + characters > _PORTION:
            self._characters = 0
            self.pass_()
        self._characters += characters

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="flagtriton-long-text")


def window(at_most: int) -> int:
    """Return how many characters of a text are looked at first, where so many tokens of it are kept."""
    return _CHARACTERS_OF_A_TOKEN * at_most + _LEAST_WINDOW
