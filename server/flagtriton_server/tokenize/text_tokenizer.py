# SPDX-License-Identifier: Apache-2.0
"""Texts to ragged token ids, by the Rust tokenizers alone. Does not import torch, nor let transformers do so."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE

from flagtriton.protocol.tensors import INPUT_IDS, NO_TOKEN, TOKEN_COUNT, TensorSpec
from flagtriton_server.checkpoint.files import check_tokenizer
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.truncation import UNBOUNDED, TextCutter, TextSize, TextTooLongError
from flagtriton_server.tokenize.unembedded_tokens import Unembedded
from flagtriton_server.tokenizer_loading.classes import OWN_CODE_WITH_FLAGS
from flagtriton_server.tokenizer_loading.decoded_text import without_spaces_before_marks
from flagtriton_server.tokenizer_loading.files import TokenizerFiles
from flagtriton_server.tokenizer_loading.loader import load_tokenizer
from flagtriton_server.tokenizer_loading.own_code import load_by_own_code

__all__ = ["TextBatch", "TextTokenizer", "ragged"]


_UNWEIGHTED = ("cls_token", "eos_token", "pad_token", "unk_token")
"""Special tokens without a lexical weight, where a tokenizer has them (docs/reference-behaviour.md#m3-encode). A BERT
tokenizer has no `eos_token`: its `[SEP]` has a weight."""


@dataclass(frozen=True)
class TextBatch:
    """The texts of one request.

    Attributes:
        texts: B texts, instructions in place.
        max_length: tokens kept of each, special tokens included.
        refuse_longer: a longer text is an error rather than cut.
        kind: what messages call one of them: `text`, `query` or `passage`.
        prompt: what each of them begins with.
        size: how much of each may be tokenised.
    """

    texts: list[str]
    max_length: int
    refuse_longer: bool = False
    kind: str = "text"
    prompt: str = ""
    size: TextSize = UNBOUNDED


class TextTokenizer:
    """A checkpoint's fast tokenizer.

    The Rust tokenizer neither pads nor truncates: tokens are cut here, and of a long text only those are computed that
    are kept. One object serves one thread.

    Args:
        backend: its Rust part; whatever padding and truncation its file asks for is dropped.
        truncation_side: `right` or `left`, the end at which longer texts are cut.
        unweighted_ids: of the special tokens that bear no lexical weight.
        clean_up: what the checkpoint wants done to every text made of tokens; None is nothing.
        bos_id: of the token that begins a text; None where there is none.
        pad_id: of the token that rows are filled up with, likewise.
        unk_id: of the token that stands for what the tokenizer does not know, likewise.
        unembedded: its tokens that the model has no embedding of, if any.

    Attributes:
        truncated_count: texts cut so far; the two of a pair count each.
    """

    def __init__(
        self,
        backend: Tokenizer,
        truncation_side: str = "right",
        unweighted_ids: Sequence[int] = (),
        clean_up: Callable[[str], str] | None = None,
        *,
        bos_id: int | None = None,
        pad_id: int | None = None,
        unk_id: int | None = None,
        unembedded: Unembedded | None = None,
    ) -> None:
        self._backend = backend
        self._backend.no_padding()
        self._backend.no_truncation()
        self.special_count: int = backend.num_special_tokens_to_add(False)
        self.unweighted_ids = np.array([*unweighted_ids] or [NO_TOKEN], dtype=np.int32)
        self.bos_id, self.pad_id, self.unk_id = bos_id, pad_id, unk_id
        self.unembedded = unembedded
        self.truncated_count = 0
        self._truncation_side = truncation_side
        self._clean_up = clean_up
        self._cutter = TextCutter(backend, from_left=truncation_side != "left")
        self.bare_count = lru_cache(maxsize=64)(lambda text: len(self.bare_ids([text])[0]))  # prefixes come again

    @classmethod
    def from_checkpoint(cls, checkpoint: str, revision: str | None, trust_remote_code: bool) -> TextTokenizer:
        """Return the tokenizer of a local folder or hub name.

        Raises:
            OSError: the checkpoint is not there.
            ValueError: it has no tokenizer, one that cannot be read or served, or one that cannot be the model's.
        """
        files = TokenizerFiles.find(checkpoint, revision)
        runs_own_code = trust_remote_code and files.own_code is not None and files.own_code not in OWN_CODE_WITH_FLAGS
        loaded = load_by_own_code(checkpoint, revision) if runs_own_code else load_tokenizer(files)
        backend = loaded.backend
        size = backend.get_vocab_size(with_added_tokens=False)
        check_tokenizer(checkpoint, files.model_config, vocab_size=size, pad_token_id=loaded.id_of("pad_token"))
        unweighted = {token_id for name in _UNWEIGHTED if (token_id := loaded.id_of(name)) is not None}
        cleans_up = loaded.cleans_up and not isinstance(backend.model, BPE)  # as transformers 5
        return cls(
            backend,
            loaded.truncation_side,
            sorted(unweighted),
            without_spaces_before_marks if cleans_up else None,
            bos_id=loaded.id_of("bos_token"),
            pad_id=loaded.id_of("pad_token"),
            unk_id=loaded.id_of("unk_token"),
            unembedded=Unembedded.of(backend, files.model_config),
        )

    def on_between_texts(self, pass_: Callable[[], None]) -> None:
        """Call this between texts from now on, as soon as some 20 ms have gone by; it may use the tokenizer."""
        self._cutter.pass_ = pass_

    def characters(self, texts: Sequence[str], at_most: int) -> int:
        """Return how many characters of texts are tokenised, about, where so many tokens of each are kept."""
        return self._cutter.characters(texts, at_most)

    def encode(self, batches: Sequence[TextBatch]) -> list[dict[TensorSpec, NDArray[np.int32]] | RequestError]:
        """Return `input_ids` `[B, T]` and `token_count` `[B, 1]`, int32, for the texts of each request.

        The texts of several requests go through the tokenizer together. T is the longest text of its request; shorter
        rows are filled up with `NO_TOKEN`.
        """
        long = [self._cutter.long_ones(b.texts, b.max_length - self.special_count, b.size) for b in batches]
        together = [text for b, some in zip(batches, long, strict=True) for text in _without(b.texts, some)]
        rows = iter(self._whole_ids(together, special=True))
        return [
            self._answer(b, some, [next(rows) for _ in range(len(b.texts) - len(some))])
            for b, some in zip(batches, long, strict=True)
        ]

    def decode(self, token_ids: Sequence[int]) -> list[str]:
        """Return what each id decodes to by itself, without the space that it may begin with.

        Raises:
            RequestError: an id that the tokenizer does not have.
        """
        for token_id in token_ids:
            if token_id < 0 or self._backend.id_to_token(token_id) is None:
                raise RequestError(f"token id {token_id} is not one of this tokenizer's")
        return [self._backend.decode([token_id], skip_special_tokens=False) for token_id in token_ids]

    def lower_case(self) -> None:
        """Lower-case every text before anything else is done to it, as sentence-transformers does."""
        own = self._backend.normalizer
        parts = [*own] if isinstance(own, normalizers.Sequence) else [] if own is None else [own]  # type: ignore[misc]
        if not any(isinstance(part, normalizers.Lowercase) for part in parts):
            self._backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])
            pass_, self._cutter = (
                self._cutter.pass_,
                TextCutter(self._backend, from_left=self._truncation_side != "left"),
            )
            self._cutter.pass_ = pass_  # where a text may be cut depends on the normalizer

    def is_special(self, token_id: int) -> bool:
        """Return whether a token is one of the special ones."""
        token = self._backend.get_added_tokens_decoder().get(token_id)
        return token is not None and token.special

    @cached_property
    def pair_marks(self) -> tuple[list[int], list[int], list[int]]:
        """What the tokenizer puts before the first text of a pair, between both, and behind the second."""
        return _pair_marks(self._backend)

    @cached_property
    def _marks(self) -> tuple[list[int], list[int]]:
        return _special_ids(self._backend)

    @cached_property
    def _borders(self) -> dict[int, str]:
        return _borders(self._backend)

    def bare_ids(self, texts: Sequence[str], at_most: int | None = None, size: TextSize = UNBOUNDED) -> list[list[int]]:
        """Return each text's tokens and no special token beside them.

        Args:
            texts: any.
            at_most: what they will be cut to. Of a longer text, all that is certain is that there are more, and those
                that `cut` keeps. None is all of them.
            size: how much of each may be tokenised.

        Raises:
            TextTooLongError: one has more than may be, and cannot be cut.
        """
        if at_most is None:
            return self._whole_ids(texts)
        long = self._cutter.long_ones(texts, at_most, size)
        rows = {index: self._cutter.ids(texts[index], at_most, size, index) for index in long}
        others = iter(self._whole_ids(_without(texts, rows)))
        return [rows[index] if index in rows else next(others) for index in range(len(texts))]

    def texts_of(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts that rows of tokens decode to, special tokens written out."""
        texts = self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=False)
        return texts if self._clean_up is None else [self._clean_up(text) for text in texts]

    def cut(self, ids: list[int], length: int) -> list[int]:
        """Return so many tokens of a text's at most, cut where the checkpoint cuts."""
        self.truncated_count += len(ids) > length
        return self._kept(ids, length)

    def with_special_tokens(self, ids: list[int], max_length: int) -> list[int]:
        """Return a text's tokens, cut to a length in all, between the special ones that the checkpoint puts there."""
        before, after = self._marks
        return [*before, *self.cut(ids, max_length - self.special_count), *after]

    def shared_head(self, text: str) -> tuple[int, list[int]]:
        """Return a place in a text, and the tokens before it, which are the same whatever follows the text.

        The place is where its last added token begins (`<instruct>`, say): no other token can reach across that. A
        text without one gives place 0.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        for index in range(len(encoding.ids) - 1, -1, -1):
            start, end = encoding.offsets[index]
            if self._borders.get(encoding.ids[index]) == text[start:end]:
                return start, encoding.ids[:index]
        return 0, []

    def _answer(
        self, batch: TextBatch, long: list[int], whole: list[list[int]]
    ) -> dict[TensorSpec, NDArray[np.int32]] | RequestError:
        """Return the answer for a request, given which of its texts are long, and the whole rows of all others."""
        before, after = self._marks
        room = batch.max_length - self.special_count
        rows, others, cut = [], iter(whole), []
        for index in range(len(batch.texts)):
            if index in long:
                try:
                    ids = self._cutter.ids(batch.texts[index], room, batch.size, index)
                except TextTooLongError as error:
                    return error.refusal(batch.kind)
                row = [*before, *ids, *after]
            else:
                row = next(others)
            if len(row) > batch.max_length:
                cut.append(index)
                if batch.refuse_longer:
                    return _too_long(batch, index)
                row = [*before, *self._kept(row[len(before) : len(row) - len(after)], room), *after]
            rows.append(row)
        self.truncated_count += len(cut)
        return ragged(rows)

    def _kept(self, ids: list[int], length: int) -> list[int]:
        return ids[max(0, len(ids) - length) :] if self._truncation_side == "left" else ids[:length]

    def _whole_ids(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Return the tokens of texts that are tokenised as they are, many at once."""
        rows: list[list[int]] = []
        for some in self._cutter.portions(texts):
            rows += [encoding.ids for encoding in self._backend.encode_batch_fast(some, add_special_tokens=special)]
        return rows


def _without(texts: Sequence[str], indices: Container[int]) -> Sequence[str]:
    return [text for index, text in enumerate(texts) if index not in indices] if indices else texts


def _too_long(batch: TextBatch, index: int) -> RequestError:
    return RequestError(
        f"{batch.kind} {index} has more than {batch.max_length} tokens and truncate=NONE; "
        "shorten it, raise its max_length, or send truncate=END"
    )


def _special_ids(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """Return what a tokenizer puts before a text's tokens and behind them."""
    bare, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return whole[:before], whole[before + len(bare) :]


def _pair_marks(backend: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Return what a tokenizer puts before the first text of a pair, between both, and behind the second."""
    bare, whole = backend.encode("a", add_special_tokens=False), backend.encode("a", "a", add_special_tokens=True)
    width = len(bare.ids)
    places = [i for i in range(len(whole.ids)) if whole.ids[i : i + width] == bare.ids]
    first, second = places[0], places[-1]
    return whole.ids[:first], whole.ids[first + width : second], whole.ids[second + width :]


def _borders(backend: Tokenizer) -> dict[int, str]:
    """Return the added tokens that split a text before anything else is done to it, and take nothing to their left."""
    added = backend.get_added_tokens_decoder().items()
    return {
        token_id: token.content
        for token_id, token in added
        if not (token.normalized or token.lstrip or token.single_word)
    }


def ragged(rows: Sequence[Sequence[int]]) -> dict[TensorSpec, NDArray[np.int32]]:
    """Return rows of token ids as `input_ids` `[B, T]` filled up with `NO_TOKEN`, and `token_count` `[B, 1]`."""
    counts = np.fromiter(map(len, rows), np.int32, len(rows))
    input_ids = np.full((len(rows), max(1, int(counts.max()))), NO_TOKEN, dtype=np.int32)
    for row, ids in zip(input_ids, rows, strict=True):
        row[: len(ids)] = ids
    return {INPUT_IDS: input_ids, TOKEN_COUNT: counts[:, None]}
