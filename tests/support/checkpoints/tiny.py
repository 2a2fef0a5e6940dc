# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints of the true architectures: random weights from a fixed seed, tokenizers trained on the spot."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.decoders import WordPiece as WordPieceDecoder

from flagtriton_server.tokenizer_loading.sentencepiece_model import model_message
from flagtriton_server.tokenizer_loading.vocabulary_conversion import QWEN2_WORDS

__all__ = [
    "TEXTS",
    "cuts_left",
    "make_bert",
    "make_decoder",
    "make_m3",
    "make_modernbert",
    "make_reranker",
    "make_xlm_roberta",
    "nfkc_charsmap",
]

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Embeddings map a text to a point; near texts mean near points.",
    "A reranker reads query and passage together, and is slower for it.",
    "naïve façade, coöperate, Ångström: accents everywhere!",
    "人工智能正在改变世界，向量检索是其中的一部分。",
    "为这个句子生成表示以用于检索相关文章：",
    "emoji 🙂🚀🧪 and symbols ∑∞≠ → ok",
    "1234567890 numbers, 3.14159, and dates 2026-01-31.",
    "ALL CAPS and  double  spaces\tand a tab",
    "short",
    "",
]
"""What the tokenizers are trained on, and what most tests send."""

_SEED = 20
_RERANKER_SEED = 22
"""Of the seeds tried, the one whose heads score pairs most differently."""

_VOCABULARY = 400


def make_bert(folder: Path) -> Path:
    """Write a BERT checkpoint with a WordPiece tokenizer; return its folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=_VOCABULARY, special_tokens=special)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    _save_tokenizer(tokenizer, BertTokenizer, folder)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=512,
    )
    return _save(BertModel(config), folder)


def make_modernbert(folder: Path) -> Path:
    """Write a ModernBERT checkpoint with windows of 16 tokens in two layers of three; return its folder.

    As published: byte-level BPE with BERT's marks, and a `tokenizer_config.json` that names no class of ModernBERT's.
    """
    from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    names["mask_token"] = "[MASK]"
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(names.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    _save_tokenizer(tokenizer, partial(PreTrainedTokenizerFast, **names), folder, 1024)
    config = ModernBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=72,
        max_position_embeddings=1024,
        local_attention=16,
        **{name.replace("_token", "_token_id"): tokenizer.token_to_id(mark) for name, mark in names.items()},
        bos_token_id=tokenizer.token_to_id("[CLS]"),
        eos_token_id=tokenizer.token_to_id("[SEP]"),
    )
    _save(ModernBertModel(config), folder)
    _rewrite(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", backend=None)
    _rewrite(
        folder / "config.json",
        rope_parameters=None,
        layer_types=None,
        global_rope_theta=160_000.0,
        local_rope_theta=10_000.0,
        global_attn_every_n_layers=3,
    )
    return folder


def _rewrite(file: Path, **changes: Any) -> None:
    """Change entries of a JSON object; None removes one."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    kept = {name: value for name, value in content.items() if value is not None}
    file.write_text(json.dumps(kept, indent=2), encoding="utf-8")


@cache
def nfkc_charsmap() -> bytes:
    """Return SentencePiece's table for NFKC with its own changes (`nmt_nfkc`), as XLM-RoBERTa's tokenizer has it."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=200, hard_vocab_limit=False, minloglevel=2
    )
    message = model_message()()
    message.ParseFromString(model.getvalue())
    return bytes(message.normalizer_spec.precompiled_charsmap)


def make_xlm_roberta(folder: Path, *, positions: int = 512) -> Path:
    """Write an XLM-RoBERTa checkpoint with a Unigram tokenizer and so many positions; return its folder."""
    from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizer

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Precompiled(nfkc_charsmap())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = MetaspaceDecoder()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=_VOCABULARY, special_tokens=[*special, "<mask>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    _save_tokenizer(tokenizer, XLMRobertaTokenizer, folder, positions)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=positions + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return _save(XLMRobertaModel(config), folder)


def make_m3(folder: Path, *, positions: int = 512, colbert_dim: int = 48) -> Path:
    """Write a BGE-M3 checkpoint: XLM-RoBERTa, and two random heads in files of their own; return its folder."""
    import torch

    make_xlm_roberta(folder, positions=positions)
    width = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    generator = torch.Generator().manual_seed(_SEED)
    for name, rows in {"sparse_linear": 1, "colbert_linear": colbert_dim}.items():
        weight, bias = torch.randn(rows, width, generator=generator) * 0.2, torch.randn(rows, generator=generator) * 0.1
        if name == "sparse_linear":
            bias = -_clear_middle(_projections(folder, weight))  # about half of the tokens have a lexical weight
        torch.save({"weight": weight, "bias": bias}, folder / f"{name}.pt")
    return folder


def _projections(folder: Path, weight: Any) -> Any:
    """Return what a head without a bias makes of all tokens of `TEXTS`, `[N, rows]`."""
    import torch
    from transformers import AutoModel

    model, backend = AutoModel.from_pretrained(folder).eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
    with torch.inference_mode():
        states = [model(torch.tensor([backend.encode(text).ids])).last_hidden_state[0] for text in TEXTS]
        return torch.cat(states) @ weight.T


def _clear_middle(projections: Any) -> Any:
    """Return a value in the middle of these, `[N, 1]`, in the widest gap there: no rounding moves one across it."""
    ordered = projections.flatten().sort().values
    middle = ordered[len(ordered) * 4 // 10 : len(ordered) * 6 // 10]
    below = middle.diff().argmax()
    return (middle[below : below + 1] + middle[below + 1 : below + 2]) / 2


def make_reranker(folder: Path, make: Callable[[Path], Path], *, labels: int = 1) -> Path:
    """Write an encoder's checkpoint as `make` does, with a classification head; return its folder."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    make(folder)
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = labels
    return _save(AutoModelForSequenceClassification.from_config(config), folder, seed=_RERANKER_SEED)


_DECODERS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 32},
    "llama": {},
    "mistral": {"sliding_window": 32},
    "qwen2": {},
    "qwen3": {"head_dim": 12},
}
"""What each family's configuration has beside the sizes that all share."""


def make_decoder(
    folder: Path,
    family: str,
    *,
    template: str = "<s> $A </s>",
    padding_side: str = "left",
    positions: int = 512,
    added: Sequence[str] = (),
    head: bool = False,
) -> Path:
    """Write a decoder's checkpoint with a byte-level BPE tokenizer; return its folder.

    Args:
        folder: made.
        family: transformers' name: `mistral`, `gemma2`, …
        template: which special tokens the tokenizer puts around a text.
        padding_side: what the tokenizer says of itself.
        positions: tokens of the longest text.
        added: further special tokens, whose ids stand behind all others, as bge-en-icl's `<instruct>` does.
        head: with its output layer, as an LLM reranker has it.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if family == "qwen2":  # as transformers 5 builds it whatever tokenizer.json says, so that both read the same
        words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = ByteLevelDecoder()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, tokenizer.token_to_id(token)) for token in special]
    )
    tokenizer.add_special_tokens(list(added))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=positions,
        padding_side=padding_side,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    ).save_pretrained(folder)
    config = AutoConfig.for_model(
        family,
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=positions,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **_DECODERS[family],
    )
    return _save((AutoModelForCausalLM if head else AutoModel).from_config(config), folder)


def cuts_left(checkpoint: Path, folder: Path) -> Path:
    """Write a copy of a checkpoint whose tokenizer cuts long texts at the left; return its folder."""
    shutil.copytree(checkpoint, folder)
    file = folder / "tokenizer_config.json"
    content = {**json.loads(file.read_text(encoding="utf-8")), "truncation_side": "left"}
    file.write_text(json.dumps(content), encoding="utf-8")
    return folder


def _save_tokenizer(tokenizer: Tokenizer, wrapper: Any, folder: Path, max_length: int = 512) -> None:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "raw.json"))
    wrapper(tokenizer_file=str(folder / "raw.json"), model_max_length=max_length).save_pretrained(folder)
    (folder / "raw.json").unlink()


def _save(model, folder: Path, seed: int = _SEED) -> Path:  # noqa: ANN001 - a transformers model
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)  # wider than the library's 0.02, so that texts differ visibly
    model.save_pretrained(folder)
    return folder
