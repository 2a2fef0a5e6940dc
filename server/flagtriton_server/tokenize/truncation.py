# SPDX-License-Identifier: Apache-2.0
"""The tokens at one end of a long text, without tokenizing the rest. Imports no torch.

A window at that end is tokenized. It grows until it has more tokens than are kept. The window ends at a boundary, so
its tokens are tokens of the text. A text without a boundary is tokenized whole.
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
"""Characters per token, more than in most texts, so that the first window is usually large enough."""

_LEAST_WINDOW: Final = 256
_CANDIDATES: Final = 256
"""Number of places that are checked from the end of a window. If none is a boundary, the window grows."""

_PORTION: Final = 8_192
"""Number of characters that are tokenized in about 10 ms, after which other requests may run."""

_AT_ONCE: Final = 8 * _PORTION
"""Largest number of characters of one text that this thread tokenizes; a longer text goes to another thread."""

_WAIT_S: Final = 0.005
"""Interval between calls of `pass_` while this thread waits for the other one, seconds."""


@dataclass(frozen=True)
class TextSize:
    """Limit on the part of a text that may be tokenized.

    Attributes:
        max_bytes: largest size of the text that a client sent, bytes of UTF-8; None for no limit.
        instruction_bytes: size of the text that the deployment or the request has added, bytes of UTF-8.
    """

    max_bytes: int | None = None
    instruction_bytes: int = 0

    def excess(self, text: str) -> int | None:
        """Return the size of the client's text in bytes if it exceeds the limit, else None."""
        if self.max_bytes is None or 4 * len(text) <= self.max_bytes:
            return None
        size = len(text.encode()) - self.instruction_bytes
        return size if size > self.max_bytes else None

    def characters(self, text: str, *, from_left: bool) -> int:
        """Return how many characters at one end of a text that is too long may be tokenized."""
        most = (self.max_bytes or 0) + self.instruction_bytes
        encoded = text.encode()
        return len((encoded[:most] if from_left else encoded[-most:]).decode(errors="ignore"))


UNBOUNDED: Final = TextSize()


class TextTooLongError(Exception):
    """A text is longer than may be tokenized, and it cannot be cut.

    Attributes:
        index: index of the text in its request.
        size: size of the text, bytes.
        max_bytes: largest size allowed, bytes.
    """

    def __init__(self, index: int, size: int, max_bytes: int) -> None:
        super().__init__(f"text {index} has {size} bytes, of at most {max_bytes}")
        self.index, self.size, self.max_bytes = index, size, max_bytes

    def of(self, index: int) -> TextTooLongError:
        """Return the same error with another index."""
        return TextTooLongError(index, self.size, self.max_bytes)

    def refusal(self, kind: str) -> RequestError:
        """Return the error for the request, with `kind` as the name of its texts."""
        return RequestError(
            f"{kind} {self.index} has {self.size} bytes; this model takes {self.max_bytes}: cut it, or deploy the "
            "model with a greater --max-text-bytes"
        )


class TextCutter:
    """Tokenizes long texts.

    Args:
        backend: the tokenizer, which neither pads nor truncates.
        from_left: whether the first tokens of a text are kept, or the last.

    Attributes:
        pass_: function that is called between texts, so that other requests can run.
    """

    def __init__(self, backend: Tokenizer, *, from_left: bool) -> None:
        self._backend, self._rule, self._from_left = backend, boundary_rule(backend), from_left
        self.pass_: Callable[[], None] = lambda: None
        self._characters = 0

    def long_ones(self, texts: Sequence[str], at_most: int, size: TextSize) -> list[int]:
        """Return the indices of texts that should not be tokenized whole if `at_most` tokens of each are kept."""
        usual = window(at_most) if size.max_bytes is None else min(window(at_most), size.max_bytes // 4)
        if max(map(len, texts), default=0) <= usual:
            return []
        return [i for i, text in enumerate(texts) if len(text) > window(at_most) or size.excess(text) is not None]

    def characters(self, texts: Sequence[str], at_most: int) -> int:
        """Return about how many characters are tokenized if at most `at_most` tokens of each text are kept."""
        most = window(at_most)
        if self._rule is None or max(map(len, texts), default=0) <= most:
            return sum(map(len, texts))
        return sum(min(len(text), most) for text in texts)

    def portions(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Yield the texts in portions of about 10 ms each; other requests may run before each portion."""
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
        """Return the tokens of a text.

        If there are more than `at_most`, return at least one more than that, from the end that is kept.

        Raises:
            TextTooLongError: the tokens depend on more of the text than may be tokenized.
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
        """Return the tokens of at most `width` characters at the end that is kept; None if there is no boundary."""
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
        """Call `pass_` before a portion if it and the characters since the last call exceed `_PORTION`."""
        if self._characters + characters > _PORTION:
            self._characters = 0
            self.pass_()
        self._characters += characters

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="flagtriton-long-text")


def window(at_most: int) -> int:
    """Return the size of the first window, in characters, if `at_most` tokens of a text are kept."""
    return _CHARACTERS_OF_A_TOKEN * at_most + _LEAST_WINDOW
