# SPDX-License-Identifier: Apache-2.0
"""Builds tokenizers from SentencePiece model files, with the ids that transformers 4 gave each family.

XLM-RoBERTa and CamemBERT shift all ids (fairseq's order of the special tokens). Gemma renames its first three pieces,
Llama sets the scores of its first three pieces to 0, and ALBERT lowers the scores of some pieces. Imports neither torch
nor the `sentencepiece` package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from flagtriton_server.tokenizer_loading.files import TokenizerFiles
from flagtriton_server.tokenizer_loading.sentencepiece_model import (
    BPE,
    CONTROL,
    UNIGRAM,
    USER_DEFINED,
    SentencePieceModel,
)

__all__ = ["SENTENCEPIECE", "piece_merges"]

_SPACE: Final = "▁"
_FILE_NAMES: Final = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model", "spm.model")
_GEMMA_TURNS: Final = frozenset({"<start_of_turn>", "<end_of_turn>"})

Names: TypeAlias = Mapping[str, str]
Vocabulary: TypeAlias = list[tuple[str, float]]
"""Pieces and scores, by the id that the model was trained with."""


@dataclass(frozen=True)
class _Family:
    """The differences between tokenizer classes that read a SentencePiece model.

    Attributes:
        vocabulary: function that gives pieces and scores by id.
        unk_id: id of the unknown piece; None for that of the model file.
        byte_fallback: characters without a piece become the pieces of their bytes.
        special: pieces that are special tokens, regardless of their type.
    """

    vocabulary: Callable[[SentencePieceModel, Names], Vocabulary]
    unk_id: int | None = None
    byte_fallback: bool = False
    special: frozenset[str] = frozenset()


def _prefix_space(files: TokenizerFiles) -> bool:
    """Return Llama's flag; the default is false if transformers 4 ignored an existing `tokenizer.json`."""
    return bool(files.config.get("add_prefix_space", files.tokenizer_json is None))


def _llama_prefix(files: TokenizerFiles, backend: Tokenizer) -> None:
    """Apply Llama's treatment of spaces to a tokenizer in place, by the flags `add_prefix_space` and `legacy`."""
    prefix = _prefix_space(files)
    legacy = files.config.get("legacy")
    if legacy is None or legacy:
        steps = [normalizers.Prepend(_SPACE)] if prefix else []
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
        return
    scheme = "first" if prefix else "never"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme, split=False)


def piece_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return the merges of a BPE model that has only scores: each split of a piece into two pieces, best score first.

    Among equal scores, a longer left part comes first, then a longer right part, then smaller ids.
    """
    ids = {piece: index for index, (piece, _) in enumerate(vocabulary)}
    found: list[tuple[float, int, int, str, str]] = []
    for piece, score in dict(vocabulary).items():
        cuts = [(piece[:place], piece[place:]) for place in range(1, len(piece))]
        known = sorted(((a, b) for a, b in cuts if a in ids and b in ids), key=lambda cut: (ids[cut[0]], ids[cut[1]]))
        found.extend((score, len(a), len(b), a, b) for a, b in known)
    found.sort(key=lambda merge: merge[:3], reverse=True)  # a stable sort: equal keys keep their order
    return [(a, b) for _, _, _, a, b in found]


def _plain(model: SentencePieceModel, names: Names) -> Vocabulary:
    return [(piece.piece, piece.score) for piece in model.pieces]


def _xlm_roberta_vocabulary(model: SentencePieceModel, names: Names) -> Vocabulary:
    first = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return [*first, *_plain(model, names)[3:], ("<mask>", 0.0)]


def _camembert_vocabulary(model: SentencePieceModel, names: Names) -> Vocabulary:
    first = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    return [*first, *_plain(model, names)[1:], ("<mask>", 0.0)]


def _albert_vocabulary(model: SentencePieceModel, names: Names) -> Vocabulary:
    return [(piece, score - 100 * _ends_in_digit_and_comma(piece)) for piece, score in _plain(model, names)]


def _ends_in_digit_and_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def _gemma_vocabulary(model: SentencePieceModel, names: Names) -> Vocabulary:
    first = [(names[name], 0.0) for name in ("pad_token", "eos_token", "bos_token")]
    vocabulary = [*first, *_plain(model, names)[3:]]
    pieces = [piece for piece, _ in vocabulary]
    if "\t" not in pieces and "<0x09>" in pieces:
        vocabulary[pieces.index("<0x09>")] = ("\t", 0.0)
    return vocabulary


def _llama_vocabulary(model: SentencePieceModel, names: Names) -> Vocabulary:
    vocabulary = _plain(model, names)
    return [*((piece, 0.0) for piece, _ in vocabulary[:3]), *vocabulary[3:]]


def _backend(files: TokenizerFiles, names: Names, family: _Family) -> tuple[Tokenizer, SentencePieceModel]:
    file = files.vocabulary_file(*_FILE_NAMES)
    model = SentencePieceModel.read(file)
    vocabulary = family.vocabulary(model, names)
    if model.model_type == UNIGRAM:
        unk_id = model.unk_id if family.unk_id is None else family.unk_id
        backend = Tokenizer(models.Unigram(vocabulary, unk_id=unk_id, byte_fallback=family.byte_fallback))
    elif model.model_type == BPE:
        backend = Tokenizer(_bpe(model, vocabulary, byte_fallback=family.byte_fallback))
    else:
        raise ValueError(
            f"{file} was trained as model type {model.model_type}; only unigram (1) and BPE (2) can be read: save a "
            "tokenizer.json beside it"
        )
    added = [piece for piece in model.pieces if piece.type in (CONTROL, USER_DEFINED)]
    backend.add_tokens(
        [
            AddedToken(piece.piece, normalized=False, special=piece.type == CONTROL or piece.piece in family.special)
            for piece in added
        ]
    )
    return backend, model


def _bpe(model: SentencePieceModel, vocabulary: Vocabulary, *, byte_fallback: bool) -> models.BPE:
    ids = {piece: index for index, (piece, _) in enumerate(vocabulary)}
    return models.BPE(
        ids, piece_merges(vocabulary), unk_token=model.unk_piece, fuse_unk=True, byte_fallback=byte_fallback
    )


def _charsmap(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    return [normalizers.Precompiled(model.charsmap)] if model.charsmap else []


def _template(backend: Tokenizer, single: str, pair: str, tokens: Sequence[str]) -> processors.TemplateProcessing:
    ids = [(token, backend.token_to_id(token)) for token in tokens]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _fairseq(files: TokenizerFiles, names: Names, family: _Family) -> Tokenizer:
    backend, model = _backend(files, names, family)
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), _SPACE)]
    backend.normalizer = normalizers.Sequence([*_charsmap(model), *spaces])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE)
    backend.decoder = decoders.Metaspace()
    backend.post_processor = _template(backend, "<s> $A </s>", "<s> $A </s> </s> $B </s>", ("<s>", "</s>"))
    return backend


def _bracketed(backend: Tokenizer) -> processors.TemplateProcessing:
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    return _template(backend, "[CLS]:0 $A:0 [SEP]:0", pair, ("[CLS]", "[SEP]"))


def _xlm_roberta(files: TokenizerFiles, names: Names) -> Tokenizer:
    return _fairseq(files, names, _Family(_xlm_roberta_vocabulary, unk_id=3))


def _camembert(files: TokenizerFiles, names: Names) -> Tokenizer:
    return _fairseq(files, names, _Family(_camembert_vocabulary, unk_id=3))


def _albert(files: TokenizerFiles, names: Names) -> Tokenizer:
    backend, model = _backend(files, names, _Family(_albert_vocabulary))
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not files.config.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if files.config.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    backend.normalizer = normalizers.Sequence([*steps, *_charsmap(model), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE)
    backend.decoder = decoders.Metaspace()
    backend.post_processor = _bracketed(backend)
    return backend


def _deberta_v2(files: TokenizerFiles, names: Names) -> Tokenizer:
    backend, model = _backend(files, names, _Family(_plain))
    lowers = [normalizers.Lowercase()] if files.config.get("do_lower_case", False) else []
    steps = [*lowers, normalizers.Strip(), *_charsmap(model), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    marks = [pre_tokenizers.Punctuation("isolated")] if files.config.get("split_by_punct", False) else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*marks, pre_tokenizers.Metaspace(_SPACE)])
    backend.decoder = decoders.Metaspace()
    backend.post_processor = _bracketed(backend)
    return backend


def _gemma(files: TokenizerFiles, names: Names) -> Tokenizer:
    family = _Family(_gemma_vocabulary, unk_id=3, byte_fallback=True, special=_GEMMA_TURNS)
    backend, _ = _backend(files, names, family)
    backend.normalizer = normalizers.Replace(" ", _SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _llama(files: TokenizerFiles, names: Names) -> Tokenizer:
    backend, _ = _backend(files, names, _Family(_llama_vocabulary, unk_id=0, byte_fallback=True))
    _llama_prefix(files, backend)
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strips = [decoders.Strip(" ", 1, 0)] if _prefix_space(files) else []
    backend.decoder = decoders.Sequence([*parts, *strips])
    return backend


SENTENCEPIECE: Final[dict[str, Callable[[TokenizerFiles, Names], Tokenizer]]] = {
    "albert": _albert,
    "camembert": _camembert,
    "deberta_v2": _deberta_v2,
    "gemma": _gemma,
    "llama": _llama,
    "xlm_roberta": _xlm_roberta,
}
