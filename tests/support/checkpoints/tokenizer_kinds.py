# SPDX-License-Identifier: Apache-2.0
"""One tiny tokenizer of each kind that published checkpoints have: true normalizers, pre-tokenizers and models."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.checkpoints.tiny import TEXTS

CORPUS: Final = [
    *TEXTS,
    "the quick brown fox jumps over the lazy dog, doesn't it? 1234567 times!",
    "人工智能 是 机器学习 的 一部分。今天天气很好，我们去公园吧。",
    "ภาษาไทย สวัสดี ครับ ขอบคุณ มาก",
    "naïve café ﬁne Ａｂｃ Ångström",
    "a b c d e f g\n\nx  y   z\tq",
]
GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3: Final = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
QWEN2: Final = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def word_piece(**bert: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**bert)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    config = json.loads(tokenizer.to_str())
    config["model"]["max_input_chars_per_word"] = 12
    tokenizer = Tokenizer.from_str(json.dumps(config))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@cache
def charsmap() -> bytes:
    """Return SentencePiece's own table of characters (`nmt_nfkc`), which XLM-R has, too."""
    import sentencepiece as spm

    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 5), model_writer=model, vocab_size=260, hard_vocab_limit=False, minloglevel=2
    )
    return field(field(model.getvalue(), 3), 2)  # normalizer_spec, precompiled_charsmap


def field(message: bytes, number: int) -> bytes:
    """Return the first field of a protobuf message that has a number and bytes."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        if key & 7 == 0:
            _, at = varint(message, at)
        elif key & 7 == 5:
            at += 4
        else:
            size, at = varint(message, at)
            if key >> 3 == number:
                return message[at : at + size]
            at += size
    raise ValueError(f"no field {number}")


def varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1


def unigram(normalizer: Any, pre_tokenizer: Any, byte_fallback: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", max_piece_length=6)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def xlm_roberta() -> Tokenizer:
    metaspace = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return unigram(normalizers.Precompiled(charsmap()), metaspace)


def bge_m3() -> Tokenizer:
    steps = [normalizers.Precompiled(charsmap()), normalizers.Replace(Regex(" {2,}"), " ")]
    return unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace())


def unigram_unsplit() -> Tokenizer:
    return unigram(normalizers.NFKC(), pre_tokenizers.Metaspace(split=False, prepend_scheme="first"))


def t5() -> Tokenizer:
    steps = [
        normalizers.Strip(left=False),
        normalizers.Precompiled(charsmap()),
        normalizers.Replace(Regex(" {2,}"), "▁"),
    ]
    return unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace(prepend_scheme="always"))


def byte_level(pre_tokenizer: Any, normalizer: Any = None, ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def split_bytes(regex: str, **kwargs: Any) -> Tokenizer:
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(regex), "isolated")
    return byte_level(pre_tokenizers.Sequence([split, bytes_]), **kwargs)


def sentence_piece_bpe(normalizer: Any, pre_tokenizer: Any = None) -> Tokenizer:
    """Return one whose whole text is one word, with a token for every byte that has no other."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=350))
    config = json.loads(words.to_str())
    listed = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    listed += [piece for piece in config["model"]["vocab"] if piece[0] < "ก" or piece[0] == "▁"]
    listed = listed[:380]
    config["model"] |= {
        "vocab": {piece: index for index, piece in enumerate(listed)},
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
    }
    known = set(listed)
    config["model"]["merges"] = [m for m in config["model"]["merges"] if {*m, "".join(m)} <= known]
    tokenizer = Tokenizer.from_str(json.dumps(config))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def llama() -> Tokenizer:
    tokenizer = sentence_piece_bpe(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    config = json.loads(tokenizer.to_str())
    config["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(config))


def gemma() -> Tokenizer:
    tokenizer = sentence_piece_bpe(normalizers.Replace(" ", "▁"))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("\n\n", "▁▁", "▁▁▁", "<h1>")])
    return tokenizer


def with_added(make: Callable[[], Tokenizer]) -> Tokenizer:
    tokenizer = make()
    tokenizer.add_tokens(
        [
            AddedToken("<left>", lstrip=True),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("fox", single_word=True, normalized=True),
            AddedToken("lazy dog", normalized=True),
            AddedToken("Cat", rstrip=True, normalized=True),
            AddedToken("人工", normalized=False),
        ]
    )
    tokenizer.add_special_tokens(["<mask2>", AddedToken("over", lstrip=True, rstrip=True, special=True)])
    return tokenizer


KINDS: Final[dict[str, Callable[[], Tokenizer]]] = {
    "bert": word_piece,
    "bert cased": lambda: word_piece(lowercase=False, strip_accents=False, handle_chinese_chars=False),
    "xlm-r": xlm_roberta,
    "bge-m3": bge_m3,
    "t5": t5,
    "unigram unsplit": unigram_unsplit,
    "gpt2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "roberta": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "bytes without regex": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "llama3": lambda: split_bytes(LLAMA3, ignore_merges=True),
    "qwen2": lambda: split_bytes(QWEN2, normalizer=normalizers.NFC()),
    "o200k": lambda: split_bytes(O200K),
    "gpt2 split": lambda: split_bytes(GPT2),
    "llama": llama,
    "gemma": gemma,
}
"""By what they are modelled on."""

ALL: Final = {
    **KINDS,
    **{f"{name} with added tokens": lambda make=make: with_added(make) for name, make in KINDS.items()},
}
