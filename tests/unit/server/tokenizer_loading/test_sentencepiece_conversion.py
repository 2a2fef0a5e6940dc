# SPDX-License-Identifier: Apache-2.0
"""Converted SentencePiece models beside the `sentencepiece` library on the same file, trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from flagtriton_tools.verify.texts import DIFFICULT_TEXTS
from tests.support.checkpoints import tiny, tokenizer_layouts

TEXTS = [
    text
    for text in (*tiny.TEXTS, *tokenizer_layouts.TEXTS, *DIFFICULT_TEXTS)
    if "<" not in text  # special tokens written out are special here, and are not to the library
]
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "XLMRobertaTokenizer": ("xlm-roberta", "sentencepiece.bpe.model", {"model_type": "unigram"}),
    "LlamaTokenizer": (
        "llama",
        "tokenizer.model",
        {
            "model_type": "bpe",
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
            "split_digits": True,
            "character_coverage": 0.99,  # some characters are left to the fallback
        },
    ),
    "GemmaTokenizer": (
        "gemma",
        "tokenizer.model",
        {
            "model_type": "bpe",
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "add_dummy_prefix": False,
            "allow_whitespace_only_pieces": True,
            "split_digits": True,
            "pad_id": 0,
            "eos_id": 1,
            "bos_id": 2,
            "unk_id": 3,
        },
    ),
}


def trained(folder: Path, tokenizer_class: str) -> tuple[TextTokenizer, Any]:
    model_type, name, options = FAMILIES[tokenizer_class]
    folder.mkdir()
    with (folder / name).open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text for text in TEXTS if text.strip()] * 3),
            model_writer=model,
            vocab_size=900,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}), encoding="utf-8")
    library = sentencepiece.SentencePieceProcessor(str(folder / name))
    return TextTokenizer.from_checkpoint(str(folder), None, False), library


def test_xlm_robertas_ids_are_the_librarys_moved_by_one(tmp_path: Path) -> None:
    tokenizer, library = trained(tmp_path / "tiny", "XLMRobertaTokenizer")
    expected = [[3 if token == 0 else token + 1 for token in library.encode(text)] for text in TEXTS]
    assert tokenizer.bare_ids(TEXTS) == expected


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "GemmaTokenizer"])
def test_other_ids_are_the_librarys(tokenizer_class: str, tmp_path: Path) -> None:
    tokenizer, library = trained(tmp_path / "tiny", tokenizer_class)
    assert tokenizer.bare_ids(TEXTS) == library.encode(TEXTS)
