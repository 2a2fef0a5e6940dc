# SPDX-License-Identifier: Apache-2.0
"""Builds tokenizers from vocabulary files, without a `tokenizer.json`, as transformers 4 converted them.

Each conversion returns the Rust tokenizer with normalizer, pre-tokenizer, model and template. `SpecialTokens.add_to`
then adds the special tokens. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from flagtriton_server.tokenizer_loading.files import TokenizerFiles
from flagtriton_server.tokenizer_loading.sentencepiece_conversion import SENTENCEPIECE

__all__ = ["QWEN2_WORDS", "convert_vocabulary"]

Names: TypeAlias = Mapping[str, str]
"""The texts of the special tokens by name, such as `cls_token`."""

QWEN2_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's words: contractions, letters with one mark before them, single digits, punctuation, white space."""


def convert_vocabulary(files: TokenizerFiles, kind: str, names: Names) -> Tokenizer:
    """Return the tokenizer that the vocabulary files of a checkpoint describe.

    Args:
        files: files of the checkpoint.
        kind: the conversion, as `TokenizerClass.vocabulary` names it.
        names: texts of the special tokens by name.

    Raises:
        ValueError: a file that the conversion reads is missing or damaged.
    """
    return _CONVERSIONS[kind](files, names)


def _wordpiece(files: TokenizerFiles, names: Names, *, second_sep: bool = False) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(_lines(files.vocabulary_file("vocab.txt")))}
    basic = bool(files.config.get("do_basic_tokenize", True))
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=basic and bool(files.flag("tokenize_chinese_chars", True)),
        strip_accents=files.flag("strip_accents", None) if basic else False,
        lowercase=basic and bool(files.flag("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    cls, sep = names["cls_token"], names["sep_token"]
    _check_has(files, vocabulary, cls, sep)
    between = f"{sep}:0 {sep}:0" if second_sep else f"{sep}:0"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {between} $B:1 {sep}:1",
        special_tokens=[(token, vocabulary[token]) for token in (cls, sep)],
    )
    return backend


def _mpnet(files: TokenizerFiles, names: Names) -> Tokenizer:
    return _wordpiece(files, names, second_sep=True)


def _all_but_ends(lines: list[str]) -> list[str]:
    """Return the merges that GPT-2 and RoBERTa read: all lines but the first and the last, whichever these are."""
    return lines[1:-1]


def _qwen2_merges(lines: list[str]) -> list[str]:
    first = 1 if lines[0].startswith("#version:") else 0
    return [line for line in lines[first:] if line.strip()]


def _byte_level(
    files: TokenizerFiles, merges: Callable[[list[str]], list[str]] = _all_but_ends, **options: Any
) -> Tokenizer:
    paths = [files.vocabulary_file(name) for name in ("vocab.json", "merges.txt")]
    vocabulary, lines = (_text(path) for path in paths)
    pairs: list[Any] = [tuple(line.split()) for line in merges(lines.split("\n"))]
    broken = next((pair for pair in pairs if len(pair) != 2), None)
    if broken is not None:
        raise ValueError(f"{paths[1]} has the line {' '.join(broken)!r}, which is no pair; download it again")
    try:
        model = models.BPE(
            json.loads(vocabulary),
            list(dict.fromkeys(pairs)),
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
    except Exception as error:  # tokenizers raises no narrower exception
        raise ValueError(f"{paths[0]} and {paths[1]} cannot be read ({error}); download them again") from error
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=_prefix_space(files), **options)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _roberta(files: TokenizerFiles, names: Names) -> Tokenizer:
    backend = _byte_level(files)
    cls, sep = names["cls_token"], names["sep_token"]
    vocabulary = backend.get_vocab()
    _check_has(files, vocabulary, cls, sep)
    backend.post_processor = processors.RobertaProcessing(
        (sep, vocabulary[sep]), (cls, vocabulary[cls]), trim_offsets=True, add_prefix_space=_prefix_space(files)
    )
    return backend


def _gpt2(files: TokenizerFiles, names: Names) -> Tokenizer:
    backend = _byte_level(files)
    if files.config.get("add_bos_token", False):
        bos = names["bos_token"]
        _check_has(files, backend.get_vocab(), bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 $B:1", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return backend


def _qwen2(files: TokenizerFiles, names: Names) -> Tokenizer:
    backend = _byte_level(files, _qwen2_merges, use_regex=False)
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated", invert=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, backend.pre_tokenizer])
    return backend


_CONVERSIONS: Final[dict[str, Callable[[TokenizerFiles, Names], Tokenizer]]] = {
    "byte_level_gpt2": _gpt2,
    "byte_level_qwen2": _qwen2,
    "byte_level_roberta": _roberta,
    "mpnet": _mpnet,
    "wordpiece": _wordpiece,
    **SENTENCEPIECE,
}


def _prefix_space(files: TokenizerFiles) -> bool:
    return bool(files.config.get("add_prefix_space", False))


def _check_has(files: TokenizerFiles, vocabulary: Mapping[str, int], *tokens: str) -> None:
    for token in tokens:
        if token not in vocabulary:
            raise ValueError(f"{files.checkpoint}: the vocabulary has no {token!r}, which stands around every text")


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; only a line feed ends a line, as vocabularies contain other separators as tokens."""
    lines = _text(path).split("\n")
    return lines if lines[-1] else lines[:-1]


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); download it again") from error
    if path.suffix == ".json" and text.startswith("\ufeff"):
        raise ValueError(f"{path} begins with a byte order mark; save it as UTF-8 without one, or download it again")
    return text
