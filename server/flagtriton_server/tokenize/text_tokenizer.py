# SPDX-License-Identifier: Apache-2.0
"""Texts to ragged token ids, with the Rust tokenizers only.

The module imports neither torch nor transformers. The exception is a checkpoint with trusted tokenizer code, for which
`load_by_own_code` imports transformers.
"""

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
"""Special tokens without a lexical weight, if a tokenizer has them (docs/reference-behaviour.md#m3-encode). A BERT
tokenizer has no `eos_token`, so its `[SEP]` has a weight."""


@dataclass(frozen=True)
class TextBatch:
    """The texts of one request.

    Attributes:
        texts: B texts with their instructions.
        max_length: largest number of tokens of each text, special tokens included.
        refuse_longer: a longer text is an error and is not cut.
        kind: name of a text in messages: `text`, `query` or `passage`.
        prompt: common beginning of all texts.
        size: limit on the part of each text that may be tokenized.
    """

    texts: list[str]
    max_length: int
    refuse_longer: bool = False
    kind: str = "text"
    prompt: str = ""
    size: TextSize = UNBOUNDED


class TextTokenizer:
    """The fast tokenizer of a checkpoint.

    The Rust tokenizer neither pads nor truncates; this class cuts the tokens. For a long text, it computes only the
    tokens that remain after the cut. One object serves one thread.

    Args:
        backend: its Rust tokenizer; the padding and truncation of its file are switched off.
        truncation_side: `right` or `left`, the end at which longer texts are cut.
        unweighted_ids: ids of the special tokens without a lexical weight.
        clean_up: function that the checkpoint applies to every decoded text; None for no change.
        bos_id: id of the token that begins a text; None if there is none.
        pad_id: id of the padding token; None if there is none.
        unk_id: id of the token for unknown input; None if there is none.
        unembedded: its tokens without an embedding in the model, if any.

    Attributes:
        truncated_count: number of texts cut so far; each text of a pair counts.
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
        self.bare_count = lru_cache(maxsize=64)(lambda text: len(self.bare_ids([text])[0]))  # prefixes repeat

    @classmethod
    def from_checkpoint(cls, checkpoint: str, revision: str | None, trust_remote_code: bool) -> TextTokenizer:
        """Return the tokenizer of a local folder or hub name.

        Raises:
            OSError: the checkpoint does not exist.
            ValueError: it has no tokenizer, its tokenizer cannot be read or served, or its tokenizer cannot belong to
                its model.
        """
        files = TokenizerFiles.find(checkpoint, revision)
        runs_own_code = trust_remote_code and files.own_code is not None and files.own_code not in OWN_CODE_WITH_FLAGS
        loaded = load_by_own_code(checkpoint, revision) if runs_own_code else load_tokenizer(files)
        backend = loaded.backend
        size = backend.get_vocab_size(with_added_tokens=False)
        check_tokenizer(checkpoint, files.model_config, vocab_size=size, pad_token_id=loaded.id_of("pad_token"))
        unweighted = {token_id for name in _UNWEIGHTED if (token_id := loaded.id_of(name)) is not None}
        cleans_up = loaded.cleans_up and not isinstance(backend.model, BPE)  # as in transformers 5
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
        """Set the function that runs between texts from now on, about every 8,192 characters (10 to 20 ms).

        The function may use the tokenizer.
        """
        self._cutter.pass_ = pass_

    def characters(self, texts: Sequence[str], at_most: int) -> int:
        """Return about how many characters are tokenized if at most `at_most` tokens of each text are kept."""
        return self._cutter.characters(texts, at_most)

    def encode(self, batches: Sequence[TextBatch]) -> list[dict[TensorSpec, NDArray[np.int32]] | RequestError]:
        """Return `input_ids` `[B, T]` and `token_count` `[B, 1]`, int32, for the texts of each request.

        The tokenizer processes the texts of several requests together. T is the longest text of its request; `NO_TOKEN`
        fills shorter rows.
        """
        long = [self._cutter.long_ones(b.texts, b.max_length - self.special_count, b.size) for b in batches]
        together = [text for b, some in zip(batches, long, strict=True) for text in _without(b.texts, some)]
        rows = iter(self._whole_ids(together, special=True))
        return [
            self._answer(b, some, [next(rows) for _ in range(len(b.texts) - len(some))])
            for b, some in zip(batches, long, strict=True)
        ]

    def decode(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text of each id decoded alone, without the space that the token may begin with.

        Raises:
            RequestError: the tokenizer does not have an id.
        """
        for token_id in token_ids:
            if token_id < 0 or self._backend.id_to_token(token_id) is None:
                raise RequestError(f"token id {token_id} is not one of this tokenizer's")
        return [self._backend.decode([token_id], skip_special_tokens=False) for token_id in token_ids]

    def lower_case(self) -> None:
        """Lower-case every text before all other steps, as sentence-transformers does."""
        own = self._backend.normalizer
        parts = [*own] if isinstance(own, normalizers.Sequence) else [] if own is None else [own]  # type: ignore[misc]
        if not any(isinstance(part, normalizers.Lowercase) for part in parts):
            self._backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])
            pass_, self._cutter = (
                self._cutter.pass_,
                TextCutter(self._backend, from_left=self._truncation_side != "left"),
            )
            self._cutter.pass_ = pass_  # the places where a text may be cut depend on the normalizer

    def is_special(self, token_id: int) -> bool:
        """Return whether a token is a special token."""
        token = self._backend.get_added_tokens_decoder().get(token_id)
        return token is not None and token.special

    @cached_property
    def pair_marks(self) -> tuple[list[int], list[int], list[int]]:
        """The ids that the tokenizer puts before the first text of a pair, between both texts, and after the second."""
        return _pair_marks(self._backend)

    @cached_property
    def _marks(self) -> tuple[list[int], list[int]]:
        return _special_ids(self._backend)

    @cached_property
    def _borders(self) -> dict[int, str]:
        return _borders(self._backend)

    def bare_ids(self, texts: Sequence[str], at_most: int | None = None, size: TextSize = UNBOUNDED) -> list[list[int]]:
        """Return the tokens of each text without special tokens.

        Args:
            texts: any texts.
            at_most: number of tokens to which the rows will be cut. A longer text gives more than that many tokens, and
                these include the tokens that `cut` keeps. None returns all tokens.
            size: limit on the part of each text that may be tokenized.

        Raises:
            TextTooLongError: a text exceeds that limit and cannot be cut.
        """
        if at_most is None:
            return self._whole_ids(texts)
        long = self._cutter.long_ones(texts, at_most, size)
        rows = {index: self._cutter.ids(texts[index], at_most, size, index) for index in long}
        others = iter(self._whole_ids(_without(texts, rows)))
        return [rows[index] if index in rows else next(others) for index in range(len(texts))]

    def texts_of(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts that rows of tokens decode to, special tokens included."""
        texts = self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=False)
        return texts if self._clean_up is None else [self._clean_up(text) for text in texts]

    def cut(self, ids: list[int], length: int) -> list[int]:
        """Return at most `length` tokens of a text, cut at the end where the checkpoint cuts."""
        self.truncated_count += len(ids) > length
        return self._kept(ids, length)

    def with_special_tokens(self, ids: list[int], max_length: int) -> list[int]:
        """Return the tokens of a text with the checkpoint's special tokens, cut to `max_length` tokens in total."""
        before, after = self._marks
        return [*before, *self.cut(ids, max_length - self.special_count), *after]

    def shared_head(self, text: str) -> tuple[int, list[int]]:
        """Return a place in a text, and the tokens before it, which do not depend on the text after the place.

        The place is the start of the last added token (for example `<instruct>`), since no other token can contain that
        position. A text without an added token gives place 0.
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
        """Return the answer for a request, given the indices of its long texts and the whole rows of all others."""
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
        """Return the tokens of texts that are tokenized whole, many texts per call."""
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
    """Return the ids that a tokenizer puts before and after the tokens of a text."""
    bare, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return whole[:before], whole[before + len(bare) :]


def _pair_marks(backend: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Return the ids that a tokenizer puts before the first text of a pair, between both, and after the second."""
    bare, whole = backend.encode("a", add_special_tokens=False), backend.encode("a", "a", add_special_tokens=True)
    width = len(bare.ids)
    places = [i for i in range(len(whole.ids)) if whole.ids[i : i + width] == bare.ids]
    first, second = places[0], places[-1]
    return whole.ids[:first], whole.ids[first + width : second], whole.ids[second + width :]


def _borders(backend: Tokenizer) -> dict[int, str]:
    """Return the added tokens that split a text before all other steps, and take no characters on their left."""
    added = backend.get_added_tokens_decoder().items()
    return {
        token_id: token.content
        for token_id, token in added
        if not (token.normalized or token.lstrip or token.single_word)
    }


def ragged(rows: Sequence[Sequence[int]]) -> dict[TensorSpec, NDArray[np.int32]]:
    """Return rows of token ids as `input_ids` `[B, T]`, filled with `NO_TOKEN`, and `token_count` `[B, 1]`."""
    counts = np.fromiter(map(len, rows), np.int32, len(rows))
    input_ids = np.full((len(rows), max(1, int(counts.max()))), NO_TOKEN, dtype=np.int32)
    for row, ids in zip(input_ids, rows, strict=True):
        row[: len(ids)] = ids
    return {INPUT_IDS: input_ids, TOKEN_COUNT: counts[:, None]}
