# SPDX-License-Identifier: Apache-2.0
"""Texts to ragged token ids, by the Rust tokenizers alone. Does not import torch, nor let transformers do so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, normalizers
from tokenizers.models import BPE

from flagtriton.protocol import INPUT_IDS, PAST_END, TOKEN_COUNT, Tensor
from flagtriton_server.checkpoint_files import check_tokenizer
from flagtriton_server.decoded_text import without_spaces_before_marks
from flagtriton_server.rejection import RequestError
from flagtriton_server.tokenizer_backend import load_tokenizer
from flagtriton_server.tokenizer_classes import OWN_CODE_WITH_FLAGS
from flagtriton_server.tokenizer_files import TokenizerFiles
from flagtriton_server.tokenizer_own_code import load_by_own_code
from flagtriton_server.unembedded import Unembedded

__all__ = ["TextBatch", "TextTokenizer", "ragged"]


_UNWEIGHTED = ("cls_token", "eos_token", "pad_token", "unk_token")
"""Special tokens without a lexical weight, where a tokenizer has them (`flagembedding-behaviour.md` §4.3). A BERT
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
    """

    texts: list[str]
    max_length: int
    refuse_longer: bool = False
    kind: str = "text"
    prompt: str = ""


class TextTokenizer:
    """A checkpoint's fast tokenizer, with truncation set per call and no padding.

    Truncation is state of the Rust tokenizer, so one object serves one thread; a step is one thread.

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
        self.unweighted_ids = np.array([*unweighted_ids] or [PAST_END], dtype=np.int32)
        self.bos_id, self.pad_id, self.unk_id = bos_id, pad_id, unk_id
        self.unembedded = unembedded
        self.truncated_count = 0
        self._truncation_side = truncation_side
        self._clean_up = clean_up
        self._max_length: int | None = None
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

    def encode(self, batches: Sequence[TextBatch]) -> list[dict[Tensor, NDArray[np.int32]] | RequestError]:
        """Return `input_ids` `[B, T]` and `token_count` `[B, 1]`, int32, for the texts of each request.

        Requests with the same `max_length` go through the tokenizer together. T is the longest text of its
        request; shorter rows are filled up with `PAST_END`.
        """
        answers: dict[int, dict[Tensor, NDArray[np.int32]] | RequestError] = {}
        by_length = sorted(range(len(batches)), key=lambda i: batches[i].max_length)
        for max_length, group in groupby(by_length, key=lambda i: batches[i].max_length):
            members = list(group)
            encodings = iter(self._encodings([t for i in members for t in batches[i].texts], max_length))
            for i in members:
                answers[i] = self._answer(batches[i], [next(encodings) for _ in batches[i].texts])
        return [answers[i] for i in range(len(batches))]

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

    def is_special(self, token_id: int) -> bool:
        """Return whether a token is one of the special ones."""
        token = self._backend.get_added_tokens_decoder().get(token_id)
        return token is not None and token.special

    @cached_property
    def pair_marks(self) -> tuple[list[int], list[int], list[int]]:
        """What the tokenizer puts before the first text of a pair, between both, and behind the second."""
        self._truncate_at(None)
        return _pair_marks(self._backend)

    @cached_property
    def _marks(self) -> tuple[list[int], list[int]]:
        self._truncate_at(None)
        return _special_ids(self._backend)

    @cached_property
    def _borders(self) -> dict[int, str]:
        return _borders(self._backend)

    def bare_ids(self, texts: list[str]) -> list[list[int]]:
        """Return each text's tokens, all of them and no special token beside them."""
        self._truncate_at(None)
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def texts_of(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts that rows of tokens decode to, special tokens written out."""
        texts = self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=False)
        return texts if self._clean_up is None else [self._clean_up(text) for text in texts]

    def cut(self, ids: list[int], length: int) -> list[int]:
        """Return so many tokens of a text's at most, cut where the checkpoint cuts."""
        self.truncated_count += len(ids) > length
        if self._truncation_side == "left":
            return ids[max(0, len(ids) - length) :]
        return ids[:length]

    def with_special_tokens(self, ids: list[int], max_length: int) -> list[int]:
        """Return a text's tokens, cut to a length in all, between the special ones that the checkpoint puts there."""
        before, after = self._marks
        return [*before, *self.cut(ids, max_length - self.special_count), *after]

    def shared_head(self, text: str) -> tuple[int, list[int]]:
        """Return a place in a text, and the tokens before it, which are the same whatever follows the text.

        The place is where its last added token begins (`<instruct>`, say): no other token can reach across that. A
        text without one gives place 0.
        """
        self._truncate_at(None)
        encoding = self._backend.encode(text, add_special_tokens=False)
        for index in range(len(encoding.ids) - 1, -1, -1):
            start, end = encoding.offsets[index]
            if self._borders.get(encoding.ids[index]) == text[start:end]:
                return start, encoding.ids[:index]
        return 0, []

    def _encodings(self, texts: list[str], max_length: int) -> list[Encoding]:
        self._truncate_at(max_length)
        return self._backend.encode_batch_fast(texts, add_special_tokens=True)

    def _answer(self, batch: TextBatch, encodings: list[Encoding]) -> dict[Tensor, NDArray[np.int32]] | RequestError:
        rows = [encoding.ids for encoding in encodings]
        # What was cut off is copied when it is asked for, so only texts are that may have been cut.
        cut = [
            index
            for index, (row, encoding) in enumerate(zip(rows, encodings, strict=True))
            if len(row) >= batch.max_length and encoding.overflowing
        ]
        if cut and batch.refuse_longer:
            return RequestError(
                f"{batch.kind} {cut[0]} has more than {batch.max_length} tokens and truncate=NONE; "
                "shorten it, raise its max_length, or send truncate=END"
            )
        self.truncated_count += len(cut)
        return ragged(rows)

    def _truncate_at(self, max_length: int | None) -> None:
        if max_length == self._max_length:
            return
        if max_length is None:
            self._backend.no_truncation()
        else:
            self._backend.enable_truncation(max_length, direction=self._truncation_side)
        self._max_length = max_length


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


def ragged(rows: Sequence[Sequence[int]]) -> dict[Tensor, NDArray[np.int32]]:
    """Return rows of token ids as `input_ids` `[B, T]` filled up with `PAST_END`, and `token_count` `[B, 1]`."""
    counts = np.fromiter(map(len, rows), np.int32, len(rows))
    input_ids = np.full((len(rows), max(1, int(counts.max()))), PAST_END, dtype=np.int32)
    for row, ids in zip(input_ids, rows, strict=True):
        row[: len(ids)] = ids
    return {INPUT_IDS: input_ids, TOKEN_COUNT: counts[:, None]}
