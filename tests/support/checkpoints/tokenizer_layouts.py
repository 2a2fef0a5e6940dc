# SPDX-License-Identifier: Apache-2.0
"""Tokenizer files as people publish them, in small: one layout for each way of laying them out.

Imports neither torch nor transformers, and trains nothing, so that the reference's environment and ours write the same
bytes. Vocabularies are of `TEXTS` alone. `LAYOUTS` names the published checkpoints of each layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from flagtriton_server.tokenizer_loading.sentencepiece_model import BPE, CONTROL, UNIGRAM, model_message

__all__ = ["LAYOUTS", "TEXTS", "Layout"]

TEXTS: Final = [
    "The quick brown fox jumps over the lazy dog.",
    "Naïve café, ÅNGSTRÖM and İstanbul: accents everywhere!",
    "人工智能正在改变世界，向量检索。",
    "  leading,  double   spaces\tand a tab \n",
    "don't stop: it's 3.14159, we've 2,000 of them,",
    "emoji 🙂🚀 and ﬁne ligatures ①",
    "special <s> and </s> [SEP] <mask> <unk> <pad> [MASK]text <|endoftext|> here",
    "<instruct>Find it\n<query>what is<response>",
    "UPPER lower MiXeD",
    "a",
    "",
    "<s>NOTUSED <extra_id_1> <madeupword2> <eop> ▁<PRE> [QUESTION] <cls>",
]
"""Difficult ones. All characters but the emoji are in the vocabularies; the last has the tokens of single classes."""

_KNOWN: Final = "".join(TEXTS[:-1]).replace("🙂", "").replace("🚀", "")


@dataclass(frozen=True)
class Layout:
    """One way of laying the files out.

    Attributes:
        write: writes the tokenizer's files into a folder.
        model_type: of `config.json`.
        config: `tokenizer_config.json`; None is no such file.
        special_tokens_map: that file, of older checkpoints.
        added_tokens: `added_tokens.json`, likewise.
        names: published checkpoints that are laid out so.
        needs_code: the checkpoint brings a tokenizer class, written by `write`, which transformers 4 runs.
        model_config: further keys of `config.json`.
    """

    write: Callable[[Path], None]
    model_type: str
    config: Mapping[str, Any] | None = field(default_factory=dict)
    special_tokens_map: Mapping[str, Any] | None = None
    added_tokens: Mapping[str, int] | None = None
    names: tuple[str, ...] = ()
    needs_code: bool = False
    model_config: Mapping[str, Any] = field(default_factory=dict)

    def make(self, folder: Path) -> Path:
        """Write all files, `config.json` among them; return the folder."""
        folder.mkdir(parents=True)
        self.write(folder)
        contents = {
            "config.json": {"model_type": self.model_type, "vocab_size": 100_000, **self.model_config},
            "tokenizer_config.json": self.config,
            "special_tokens_map.json": self.special_tokens_map,
            "added_tokens.json": self.added_tokens,
        }
        for name, content in contents.items():
            if content is not None:
                (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return folder


def _words(lowercase: bool = False) -> list[str]:
    text = _KNOWN.lower() if lowercase else _KNOWN
    return sorted({word for line in text.split("\n") for word in line.replace(",", " ").replace(".", " ").split()})


def _letters(lowercase: bool = False) -> list[str]:
    return sorted(set((_KNOWN.lower() if lowercase else _KNOWN) + "aeioucfnstbo") - set(" \t\n"))


# WordPiece

_BERT_SPECIAL: Final = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _wordpieces(special: Iterable[str], lowercase: bool) -> list[str]:
    words = [word[:cut] for word in _words(lowercase) for cut in (3, 5, 99)]
    pieces = [*_letters(lowercase), *words, *(f"##{piece}" for piece in _letters(lowercase)), "##ing", "##own", "##mps"]
    return [*special, *dict.fromkeys(piece for piece in pieces if piece not in special)]


def _wordpiece_json(
    folder: Path,
    *,
    special: Iterable[str] = _BERT_SPECIAL,
    lowercase: bool = True,
    marks: tuple[str, str] = ("[CLS]", "[SEP]"),
    pair_marks: int = 1,
    **normalizer: Any,
) -> None:
    pieces = _wordpieces(special, lowercase)
    unk = "[UNK]" if "[UNK]" in pieces else "<unk>"
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token=unk))
    backend.normalizer = normalizers.BertNormalizer(**{"lowercase": lowercase, **normalizer})
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    cls, sep = marks
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {' '.join([sep] * pair_marks)} $B:1 {sep}:1",
        special_tokens=[(token, pieces.index(token)) for token in marks],
    )
    backend.add_special_tokens(list(special))
    backend.save(str(folder / "tokenizer.json"))


def _vocab_txt(folder: Path, *, special: Iterable[str] = _BERT_SPECIAL, lowercase: bool = True) -> None:
    lines = "".join(f"{piece}\n" for piece in _wordpieces(special, lowercase))
    (folder / "vocab.txt").write_text(lines, encoding="utf-8")


def _bert(folder: Path, **options: Any) -> None:
    _wordpiece_json(folder, **options)
    _vocab_txt(folder, lowercase=options.get("lowercase", True))


# SentencePiece, as unigram (XLM-RoBERTa) and as BPE (Llama, Mistral, Gemma)

_FAIRSEQ_SPECIAL: Final = ["<s>", "<pad>", "</s>", "<unk>"]


def _pieces() -> list[tuple[str, float]]:
    words = [f"▁{word[:cut]}" for word in _words() for cut in (2, 4, 99)]
    parts = [word[-3:] for word in _words() if len(word) > 4]
    singles = ["▁", *_letters()]
    pieces = list(dict.fromkeys([*words, *parts, *singles]))
    pieces = [piece for piece in pieces if piece not in (*_FAIRSEQ_SPECIAL, "<mask>")]
    return [(piece, -2.0 - 0.25 * (index % 7) - (6 if len(piece) == 1 else 0)) for index, piece in enumerate(pieces)]


def _unigram_json(folder: Path, *, normalizer: Any = None, mask: bool = True) -> None:
    special = [(token, 0.0) for token in _FAIRSEQ_SPECIAL]
    backend = Tokenizer(models.Unigram([*special, *_pieces(), ("<mask>", 0.0)], unk_id=3))
    backend.normalizer = normalizer or normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    backend.add_special_tokens(_FAIRSEQ_SPECIAL)
    if mask:
        backend.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    backend.save(str(folder / "tokenizer.json"))


def _sentencepiece(
    folder: Path,
    name: str,
    *,
    model_type: int = UNIGRAM,
    first: Iterable[tuple[str, int]] = (("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL)),
    byte_fallback: bool = False,
    pieces: Iterable[tuple[str, float]] | None = None,
) -> None:
    message = model_message()()
    for piece, kind in first:
        message.pieces.add(piece=piece, score=0.0, type=kind)
    for byte in range(256) if byte_fallback else ():
        message.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=6)
    for piece, score in _pieces() if pieces is None else pieces:
        message.pieces.add(piece=piece, score=score)
    unk_id = next(i for i, (piece, _) in enumerate(first) if piece in ("<unk>", "[UNK]"))
    message.trainer_spec.model_type = model_type
    message.trainer_spec.byte_fallback = byte_fallback
    message.trainer_spec.unk_id = unk_id
    message.trainer_spec.unk_piece = [piece for piece, _ in first][unk_id]
    (folder / name).write_bytes(message.SerializeToString())


def _xlm_roberta(folder: Path, **options: Any) -> None:
    _unigram_json(folder, **options)
    _sentencepiece(folder, "sentencepiece.bpe.model")


def _bpe_pieces() -> list[tuple[str, float]]:
    """Return pieces that grow by one letter each, best first, as a BPE training makes them."""
    singles = ["▁", *_letters()]
    grown = [f"▁{word}"[:length] for word in _words() for length in range(2, min(7, len(word) + 2))]
    grown += [word[-3:-1] for word in _words() if len(word) > 4]
    merged = [piece for piece in dict.fromkeys([*sorted(grown, key=len), "▁▁"]) if len(piece) > 1]
    return [(piece, -float(index)) for index, piece in enumerate([*merged, *singles])]


_LLAMA_FIRST: Final = (("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL))
_GEMMA_FIRST: Final = (("<pad>", CONTROL), ("<eos>", CONTROL), ("<bos>", CONTROL), ("<unk>", 2))


def _spm_bpe_json(
    folder: Path, first: Iterable[tuple[str, int]], template: str, *, prefix: bool, added: Iterable[str] = ()
) -> None:
    from flagtriton_server.tokenizer_loading.sentencepiece_conversion import piece_merges

    special = [token for token, _ in first]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = [*((token, 0.0) for token in (*special, *bytes_)), *_bpe_pieces()]
    ids = {piece: index for index, (piece, _) in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(ids, piece_merges(vocabulary), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = [normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *spaces] if prefix else spaces)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(special)
    backend.add_special_tokens(list(added))
    marks = [token for token in template.split() if not token.startswith("$")]
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, ids[token]) for token in dict.fromkeys(marks)]
    )
    backend.save(str(folder / "tokenizer.json"))


def _llama(folder: Path, *, template: str = "<s> $A", added: Iterable[str] = (), model: bool = True) -> None:
    _spm_bpe_json(folder, _LLAMA_FIRST, template, prefix=True, added=added)
    if model:
        _llama_model(folder)


def _llama_model(folder: Path) -> None:
    _sentencepiece(folder, "tokenizer.model", model_type=BPE, byte_fallback=True, pieces=_bpe_pieces())


def _gemma(folder: Path, *, template: str = "<bos> $A") -> None:
    _spm_bpe_json(folder, _GEMMA_FIRST, template, prefix=False)
    _gemma_model(folder)


def _gemma_model(folder: Path) -> None:
    _sentencepiece(
        folder, "tokenizer.model", model_type=BPE, first=_GEMMA_FIRST, byte_fallback=True, pieces=_bpe_pieces()
    )


# Byte-level BPE

_END: Final = "<|endoftext|>"
_QWEN_WORDS: Final = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MERGES: Final = [
    ("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("a", "n"), ("an", "d"), ("o", "n"), ("o", "v"), ("ov", "er"),
    ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("Ġ", "a"), ("Ġa", "n"), ("Ġan", "d"), ("Ġ", "s"), ("Ã", "¯"), ("Ã", "©"),
    ("ä", "º"), ("äº", "º"), ("Ġ", "Ġ"), ("'", "s"), ("'", "t"),
]  # fmt: skip
"""Of byte symbols ("Ġ" is the space), first merge first."""


def _byte_vocabulary(special: Iterable[str]) -> dict[str, int]:
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in _MERGES)]
    return {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}


def _byte_level_json(
    folder: Path,
    *,
    special: Iterable[str],
    after: str | None = None,
    qwen: bool = False,
    prefix: bool = False,
    roberta: bool = False,
    mask_strips: bool = False,
    added: Iterable[str] = (),
) -> None:
    vocabulary = _byte_vocabulary(special)
    backend = Tokenizer(models.BPE(vocabulary, _MERGES))
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not qwen)
    backend.pre_tokenizer = level
    if qwen:
        backend.normalizer = normalizers.NFC()
        words = pre_tokenizers.Split(_QWEN_WORDS, behavior="isolated", invert=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, level])
    backend.decoder = decoders.ByteLevel()
    processor: Any = processors.ByteLevel(trim_offsets=False)
    if roberta:
        processor = processors.RobertaProcessing(
            ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=prefix
        )
    if after is not None:
        ends = processors.TemplateProcessing(single=f"$A {after}", special_tokens=[(after, vocabulary[after])])
        processor = processors.Sequence([processor, ends])
    backend.post_processor = processor
    backend.add_special_tokens([*special, *added])
    if mask_strips:
        backend.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    backend.save(str(folder / "tokenizer.json"))


def _vocab_and_merges(folder: Path, *, special: Iterable[str]) -> None:
    content = json.dumps(_byte_vocabulary(special), ensure_ascii=False)
    (folder / "vocab.json").write_text(content, encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in _MERGES)]
    (folder / "merges.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


_ROBERTA_SPECIAL: Final = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _qwen2(folder: Path, **options: Any) -> None:
    _byte_level_json(folder, special=[_END], qwen=True, **options)
    _vocab_and_merges(folder, special=[_END])


_QWEN_CODE: Final = """
from tokenizers import processors
from transformers import Qwen2TokenizerFast as Stock


class Qwen2TokenizerFast(Stock):
    def __init__(self, *args, add_eos_token=False, **kwargs):
        super().__init__(*args, add_eos_token=add_eos_token, **kwargs)
        ends = [f"{self.eos_token}:0"] if add_eos_token else []
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=["$A:0", *ends], special_tokens=[(self.eos_token, self.eos_token_id)] if add_eos_token else []
        )
"""
"""What gte-Qwen2's own tokenizer class does."""


def _qwen2_with_code(folder: Path) -> None:
    _qwen2(folder)
    (folder / "tokenization_qwen.py").write_text(_QWEN_CODE, encoding="utf-8")


# What the configurations say

_BERT_CONFIG: Final = {
    "tokenizer_class": "BertTokenizer",
    "clean_up_tokenization_spaces": True,
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_XLM_ROBERTA_CONFIG: Final = {
    "tokenizer_class": "XLMRobertaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": True, "rstrip": False,
                   "single_word": False},
}  # fmt: skip
_LLAMA_CONFIG: Final = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "add_eos_token": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "legacy": True,
    "clean_up_tokenization_spaces": False,
}
_GEMMA_CONFIG: Final = {
    "tokenizer_class": "GemmaTokenizer",
    "add_bos_token": True,
    "add_eos_token": True,
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
}
_QWEN2_CONFIG: Final = {
    "tokenizer_class": "Qwen2Tokenizer",
    "add_prefix_space": False,
    "bos_token": None,
    "eos_token": _END,
    "pad_token": _END,
    "unk_token": None,
}
_GENERIC_CONFIG: Final = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "mask_token": "[MASK]"}


def _decoder_entries(*tokens: str, first: int, special: bool = True) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special}
    return {str(first + index): {"content": token, **flags} for index, token in enumerate(tokens)}


_ICL_TOKENS: Final = ("<instruct>", "<query>", "<response>")
_ICL_FIRST: Final = 3 + 256 + len(_bpe_pieces())
_NO_EOS: Final = {"add_eos_token": False}
_BGE_EN: Final = tuple(f"bge-{size}-en{version}" for size in ("large", "base", "small") for version in ("", "-v1.5"))
_CHINESE: Final = (
    *(f"bge-{size}-zh{version}" for size in ("large", "base", "small") for version in ("", "-v1.5")),
    *(f"gte-{size}-zh" for size in ("large", "base", "small")),
)
_E5_GTE: Final = (
    *(f"e5-{size}{version}" for size in ("large", "base", "small") for version in ("", "-v2")),
    *(f"gte-{size}" for size in ("large", "base", "small")),
)

_FUNNEL_SPECIAL: Final = ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>"]
_ROBERTA_JSON: Final = partial(_byte_level_json, special=_ROBERTA_SPECIAL, roberta=True, prefix=True)
_LLAMA_EOS: Final = {"add_eos_token": True}


def _deberta_v2_model(folder: Path) -> None:
    first = (("[PAD]", CONTROL), ("[CLS]", CONTROL), ("[SEP]", CONTROL), ("[UNK]", 2))
    _sentencepiece(folder, "spm.model", first=first)


def _albert_model(folder: Path) -> None:
    first = (("<pad>", CONTROL), ("<unk>", 2), ("[CLS]", CONTROL), ("[SEP]", CONTROL), ("[MASK]", CONTROL))
    _sentencepiece(folder, "spiece.model", first=first)


def _without_version(folder: Path) -> None:
    _vocab_and_merges(folder, special=_ROBERTA_SPECIAL)
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    (folder / "merges.txt").write_text("\n".join(lines[1:]), encoding="utf-8")


def _by_model_type(
    write: Callable[[Path], None], config: Mapping[str, Any], model_types: str
) -> Iterator[tuple[str, Layout]]:
    """Yield layouts whose class only the model type tells."""
    for model_type in model_types.split():
        yield f"{model_type}-unnamed", Layout(write, model_type, config)


def _by_class(write: Callable[[Path], None], model_type: str, classes: str) -> Iterator[tuple[str, Layout]]:
    for name in classes.split():
        yield f"{name.lower()}-class", Layout(write, model_type, {"tokenizer_class": f"{name}Tokenizer"})


_OF_CLASSES: Final[dict[str, Layout]] = {
    # of checkpoints that name no class
    **dict(
        _by_model_type(
            partial(_wordpiece_json, lowercase=False),
            {},
            "dpr layoutlm lxmert megatron-bert nezha qdqbert realm visual_bert",
        )
    ),
    "nezha-vocab-txt": Layout(_vocab_txt, "nezha", None),
    **dict(
        _by_model_type(
            _ROBERTA_JSON, {}, "bridgetower data2vec-text ibert led mra roberta-prelayernorm blenderbot mvp bloom xglm"
        )
    ),
    **dict(
        _by_model_type(
            partial(_byte_level_json, special=[_END], prefix=True),
            {},
            "codegen gpt_bigcode gpt_neo gptj olmo3 phi starcoder2",
        )
    ),
    **dict(
        _by_model_type(
            partial(_byte_level_json, special=[_END], prefix=True),
            _LLAMA_EOS,
            "falcon_mamba mpt olmo olmo2 stablelm",
        )
    ),
    **dict(
        _by_model_type(
            partial(_llama, model=False),
            _LLAMA_EOS,
            "arcee deepseek_v2 deepseek_v3 ernie4_5 idefics jamba llama4_text ministral mistral3 persimmon",
        )
    ),
    "cohere2-unnamed": Layout(
        partial(_byte_level_json, special=[_END]), "cohere2", {"bos_token": _END, "eos_token": _END, **_LLAMA_EOS}
    ),
    "xmod-unnamed": Layout(_unigram_json, "xmod", {}),
    # of classes with flags, special tokens or files of their own
    **dict(
        _by_class(
            partial(_wordpiece_json, lowercase=False),
            "bert",
            "DPRContextEncoder DPRQuestionEncoder Splinter BigBird FNet RemBert Barthez Herbert Reformer OpenAIGPT",
        )
    ),
    **dict(_by_class(_unigram_json, "xlm-roberta", "T5 MT5 XLNet Camembert")),
    "bert-older-additional": Layout(
        _bert,
        "bert",
        {**_BERT_CONFIG, "additional_special_tokens": ["<instruct>"]},
        {"additional_special_tokens": ["<query>", "<instruct>"]},
    ),
    "dpr-vocab-txt": Layout(_vocab_txt, "dpr", {"tokenizer_class": "DPRContextEncoderTokenizer"}),
    "funnel-vocab-txt": Layout(partial(_vocab_txt, special=_FUNNEL_SPECIAL), "funnel", {}),
    "t5-extra-ids": Layout(_unigram_json, "t5", {"tokenizer_class": "T5Tokenizer", "extra_ids": 1}),
    "camembert-no-additional": Layout(
        _unigram_json, "camembert", {"tokenizer_class": "CamembertTokenizer", "additional_special_tokens": []}
    ),
    "codegen-vocab-json": Layout(partial(_vocab_and_merges, special=[_END]), "codegen", {}),
    "mvp-vocab-json": Layout(partial(_vocab_and_merges, special=_ROBERTA_SPECIAL), "mvp", {}),
    "cohere-prefix-space-within": Layout(
        partial(_byte_level_json, special=[_END], qwen=True),
        "cohere",
        {"tokenizer_class": "CohereTokenizer", "bos_token": _END, "eos_token": _END, "add_prefix_space": True},
    ),
    "gpt2-prefix-space-null": Layout(
        partial(_byte_level_json, special=[_END], prefix=True), "gpt2", {"add_prefix_space": None}
    ),
    "roberta-merges-without-version": Layout(_without_version, "roberta", {}),
    "code-llama-class": Layout(_llama, "llama", {"tokenizer_class": "CodeLlamaTokenizer", "suffix_token": None}),
    # of Llama's flags
    "llama-null-flags": Layout(_llama, "llama", {**_LLAMA_CONFIG, "add_bos_token": None, "add_eos_token": None}),
    "llama-from-slow": Layout(
        partial(_llama, template="<s> $A </s>", added=("<x>",)), "llama", {**_LLAMA_CONFIG, "from_slow": True}
    ),
    "llama-from-slow-new": Layout(_llama, "llama", {**_LLAMA_CONFIG, "from_slow": True, "legacy": False}),
    "llama-from-slow-prefix-space": Layout(
        _llama, "llama", {**_LLAMA_CONFIG, "from_slow": True, "add_prefix_space": True}
    ),
    "llama-prefix-space-converts": Layout(
        partial(_llama, added=("<x>",)), "llama", {**_LLAMA_CONFIG, "add_prefix_space": True}
    ),
    "llama-sentencepiece-prefix-space-null": Layout(_llama_model, "llama", {**_LLAMA_CONFIG, "add_prefix_space": None}),
    "llama-sentencepiece-normalized-tokens": Layout(
        _llama_model,
        "llama",
        {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True},
        {name: {"content": token, "normalized": True} for name, token in (("bos_token", "<s>"), ("eos_token", "</s>"))},
    ),
    "llama-sentencepiece-normalized-in-config": Layout(
        _llama_model,
        "llama",
        {
            **_LLAMA_CONFIG,
            "bos_token": {"__type": "AddedToken", "content": "<s>", "normalized": True},
            "eos_token": {"__type": "AddedToken", "content": "</s>", "normalized": True},
        },
    ),
    # of flags that mean nothing to other SentencePiece classes
    **{
        f"{name}-sentencepiece-{flag}": Layout(
            write, name, {"tokenizer_class": f"{tokenizer}Tokenizer", flag.replace("-", "_"): False}
        )
        for flag in ("add-prefix-space", "legacy")
        for name, tokenizer, write in (
            ("xlm-roberta", "XLMRoberta", partial(_sentencepiece, name="sentencepiece.bpe.model")),
            ("camembert", "Camembert", partial(_sentencepiece, name="sentencepiece.bpe.model")),
            ("deberta-v2", "DebertaV2", _deberta_v2_model),
            ("albert", "Albert", _albert_model),
        )
    },
}
"""Each for what a class or a flag does that no other layout shows."""

LAYOUTS: Final[dict[str, Layout]] = {
    # BERT
    "bert": Layout(
        _bert,
        "bert",
        {**_BERT_CONFIG, "added_tokens_decoder": _decoder_entries(*_BERT_SPECIAL, first=0)},
        names=_BGE_EN,
    ),
    "bert-older": Layout(
        _bert,
        "bert",
        _BERT_CONFIG,
        {key: _BERT_CONFIG[key] for key in ("cls_token", "mask_token", "pad_token", "sep_token", "unk_token")},
        names=_E5_GTE,
    ),
    "bert-chinese": Layout(
        _bert, "bert", {**_BERT_CONFIG, "do_basic_tokenize": True, "never_split": None}, names=_CHINESE
    ),
    "bert-of-own-architecture": Layout(_bert, "new", _BERT_CONFIG, names=("gte-large-en-v1.5", "gte-base-en-v1.5")),
    "bert-cased": Layout(
        lambda folder: _bert(folder, lowercase=False), "bert", {**_BERT_CONFIG, "do_lower_case": False}
    ),
    "bert-flag-lowers": Layout(
        lambda folder: _bert(folder, lowercase=False), "bert", {"tokenizer_class": "BertTokenizer"}
    ),
    "bert-flag-keeps-case": Layout(_bert, "bert", {**_BERT_CONFIG, "do_lower_case": False}),
    "bert-flag-strips-accents": Layout(_bert, "bert", {**_BERT_CONFIG, "strip_accents": False}),
    "bert-flag-chinese": Layout(_bert, "bert", {**_BERT_CONFIG, "tokenize_chinese_chars": False}),
    "bert-no-config": Layout(_bert, "bert", None),
    "bert-vocab-txt": Layout(_vocab_txt, "bert", _BERT_CONFIG),
    "bert-vocab-txt-cased": Layout(
        lambda folder: _vocab_txt(folder, lowercase=False), "bert", {**_BERT_CONFIG, "do_lower_case": False}
    ),
    "bert-vocab-txt-alone": Layout(_vocab_txt, "bert", None),
    "bert-vocab-txt-added": Layout(
        _vocab_txt, "bert", _BERT_CONFIG, added_tokens={"MiXeD": len(_wordpieces(_BERT_SPECIAL, True))}
    ),
    "distilbert-vocab-txt": Layout(
        _vocab_txt, "distilbert", {**_BERT_CONFIG, "tokenizer_class": "DistilBertTokenizer"}
    ),
    "mpnet": Layout(
        lambda folder: _wordpiece_json(
            folder, special=["<s>", "<pad>", "</s>", "[UNK]", "<mask>"], marks=("<s>", "</s>"), pair_marks=2
        ),
        "mpnet",
        {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True, "strip_accents": None},
    ),
    "mpnet-vocab-txt": Layout(
        lambda folder: _vocab_txt(folder, special=["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]),
        "mpnet",
        {"tokenizer_class": "MPNetTokenizer"},
    ),
    "generic-wordpiece": Layout(_wordpiece_json, "modernbert", _GENERIC_CONFIG),
    # XLM-RoBERTa
    "xlm-roberta": Layout(
        _xlm_roberta,
        "xlm-roberta",
        _XLM_ROBERTA_CONFIG,
        names=(
            "bge-m3",
            "bge-reranker-v2-m3",
            "bge-reranker-base",
            "bge-reranker-large",
            "multilingual-e5-large",
            "multilingual-e5-large-instruct",
            "multilingual-e5-base",
            "bce-embedding-base_v1",
            "bce-reranker-base_v1",
        ),
    ),
    "xlm-roberta-on-bert": Layout(
        _xlm_roberta,
        "bert",
        _XLM_ROBERTA_CONFIG,
        names=("multilingual-e5-small",),
        model_config={"pad_token_id": 0},  # the tokenizer's is 1
    ),
    "xlm-roberta-of-own-architecture": Layout(
        _xlm_roberta,
        "new",
        _XLM_ROBERTA_CONFIG,
        names=("gte-multilingual-base", "gte-multilingual-reranker-base", "jina-reranker-v2-base-multilingual"),
    ),
    "xlm-roberta-lowercase": Layout(
        lambda folder: _xlm_roberta(
            folder, normalizer=normalizers.Sequence([normalizers.Lowercase(), normalizers.NFKC()])
        ),
        "xlm-roberta",
        _XLM_ROBERTA_CONFIG,
    ),
    "xlm-roberta-mask-not-added": Layout(
        lambda folder: _unigram_json(folder, mask=False), "xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer"}
    ),
    "xlm-roberta-sentencepiece": Layout(
        lambda folder: _sentencepiece(folder, "sentencepiece.bpe.model"), "xlm-roberta", _XLM_ROBERTA_CONFIG
    ),
    "xlm-roberta-sentencepiece-alone": Layout(
        lambda folder: _sentencepiece(folder, "sentencepiece.bpe.model"), "xlm-roberta", None
    ),
    "camembert-sentencepiece": Layout(
        lambda folder: _sentencepiece(folder, "sentencepiece.bpe.model"),
        "camembert",
        {"tokenizer_class": "CamembertTokenizer"},
    ),
    "deberta-v2-sentencepiece": Layout(
        _deberta_v2_model,
        "deberta-v2",
        {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": True, "split_by_punct": True},
    ),
    "albert-sentencepiece": Layout(
        _albert_model,
        "albert",
        {"tokenizer_class": "AlbertTokenizer"},
    ),
    # Mistral and Llama
    "mistral-eos-flag": Layout(
        _llama,
        "mistral",
        {**_LLAMA_CONFIG, "pad_token": "</s>"},
        names=("e5-mistral-7b-instruct", "SFR-Embedding-Mistral", "SFR-Embedding-2_R", "Linq-Embed-Mistral"),
    ),
    "mistral-icl": Layout(
        lambda folder: _llama(folder, added=_ICL_TOKENS, template="<s> $A </s>"),
        "mistral",
        {
            **_LLAMA_CONFIG,
            "added_tokens_decoder": {
                **_decoder_entries("<unk>", "<s>", "</s>", first=0),
                **_decoder_entries(*_ICL_TOKENS, first=_ICL_FIRST),
            },
            "additional_special_tokens": list(_ICL_TOKENS),
        },
        names=("bge-en-icl",),
    ),
    "llama-minicpm": Layout(
        _llama, "minicpm", {**_LLAMA_CONFIG, **_NO_EOS, "legacy": False}, names=("bge-reranker-v2-minicpm-layerwise",)
    ),
    "llama-no-flags": Layout(
        lambda folder: _llama(folder, template="<s> $A </s>"),
        "llama",
        {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
    "llama-no-bos": Layout(_llama, "llama", {**_LLAMA_CONFIG, "add_bos_token": False}),
    "llama-no-config": Layout(_llama, "llama", None),
    "llama-no-prefix-space": Layout(_llama, "llama", {**_LLAMA_CONFIG, "add_prefix_space": False}),
    "llama-no-prefix-space-new": Layout(_llama, "llama", {**_LLAMA_CONFIG, "add_prefix_space": False, "legacy": False}),
    "llama-sentencepiece": Layout(_llama_model, "mistral", _LLAMA_CONFIG),
    "llama-sentencepiece-new": Layout(_llama_model, "llama", {**_LLAMA_CONFIG, "legacy": False}),
    "llama-sentencepiece-added": Layout(
        _llama_model,
        "llama",
        _LLAMA_CONFIG,
        {"additional_special_tokens": list(_ICL_TOKENS[:2]), "pad_token": "</s>"},
        {"<instruct>": _ICL_FIRST, "<query>": _ICL_FIRST + 1, "brown": _ICL_FIRST + 2},
    ),
    "generic-mistral-flag": Layout(_llama, "mistral", {**_LLAMA_CONFIG, "tokenizer_class": "PreTrainedTokenizerFast"}),
    # Gemma
    "gemma-eos": Layout(
        lambda folder: _gemma(folder, template="<bos> $A <eos>"),
        "gemma2",
        _GEMMA_CONFIG,
        names=("bge-multilingual-gemma2",),
    ),
    "gemma": Layout(
        _gemma,
        "gemma",
        {**_GEMMA_CONFIG, **_NO_EOS},
        names=("bge-reranker-v2-gemma", "bge-reranker-v2.5-gemma2-lightweight"),
    ),
    "gemma-eos-flag": Layout(_gemma, "gemma2", _GEMMA_CONFIG),
    "gemma-sentencepiece": Layout(_gemma_model, "gemma", {**_GEMMA_CONFIG, **_NO_EOS}),
    # Byte-level BPE
    "qwen2-end": Layout(
        lambda folder: _qwen2(folder, after=_END),
        "qwen3",
        _QWEN2_CONFIG,
        names=("Qwen3-Embedding-0.6B", "Qwen3-Embedding-4B", "Qwen3-Embedding-8B", "bge-reasoner-embed-qwen3-8b-0923"),
    ),
    "qwen2": Layout(
        lambda folder: _qwen2(folder, after=_END, added=("<instruct>", "<query>")),
        "qwen2",
        {**_QWEN2_CONFIG, "additional_special_tokens": ["<instruct>", "<query>"]},
        names=("bge-code-v1",),
    ),
    "qwen2-own-code": Layout(
        _qwen2_with_code,
        "qwen2",
        {
            **_QWEN2_CONFIG,
            "add_eos_token": True,
            "auto_map": {"AutoTokenizer": [None, "tokenization_qwen.Qwen2TokenizerFast"]},
        },
        names=("gte-Qwen2-7B-instruct", "gte-Qwen2-1.5B-instruct", "gte-Qwen1.5-7B-instruct"),
        needs_code=True,
    ),
    "qwen2-vocab-json": Layout(lambda folder: _vocab_and_merges(folder, special=[_END]), "qwen2", _QWEN2_CONFIG),
    "roberta": Layout(
        lambda folder: _byte_level_json(folder, special=_ROBERTA_SPECIAL, roberta=True, mask_strips=True),
        "roberta",
        {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False},
        names=("jina-reranker-v1-turbo-en",),
    ),
    "roberta-prefix-space": Layout(
        lambda folder: _byte_level_json(folder, special=_ROBERTA_SPECIAL, roberta=True),
        "roberta",
        {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True},
    ),
    "roberta-prefix-space-in-file": Layout(
        lambda folder: _byte_level_json(folder, special=_ROBERTA_SPECIAL, roberta=True, prefix=True),
        "roberta",
        {"tokenizer_class": "RobertaTokenizer"},
    ),
    "roberta-vocab-json": Layout(lambda folder: _vocab_and_merges(folder, special=_ROBERTA_SPECIAL), "roberta", None),
    "roberta-wordpiece": Layout(
        lambda folder: _wordpiece_json(folder, special=_ROBERTA_SPECIAL, marks=("<s>", "</s>"), lowercase=False),
        "roberta",
        {"tokenizer_class": "RobertaTokenizer"},
    ),
    "gpt-neox-flags": Layout(
        lambda folder: _byte_level_json(folder, special=[_END]),
        "gpt_neox",
        {"tokenizer_class": "GPTNeoXTokenizerFast", "add_eos_token": True, "eos_token": _END, "bos_token": _END},
    ),
    "split-special-tokens": Layout(_llama, "llama", {**_LLAMA_CONFIG, "split_special_tokens": True}),
    **_OF_CLASSES,
}
"""By name; those without published names stand for further layouts that are met."""
