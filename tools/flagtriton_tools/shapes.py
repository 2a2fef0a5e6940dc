# SPDX-License-Identifier: Apache-2.0
"""Writes checkpoints of published shapes with random weights.

A pass takes as long as with the real weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagtriton_tools.workload import Workload, make_texts

if TYPE_CHECKING:  # the command line lists the shapes, even if only the SDK is installed
    from tokenizers import Tokenizer

__all__ = ["SHAPES", "Shape", "make_checkpoint"]

_M3_HEADS = ("sparse_linear", "colbert_linear")
_ICL_TOKENS = ("<instruct>", "<query>", "<response>")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Shape:
    """Sizes of one published model, from its `config.json`.

    Attributes:
        m3_heads: True if it has BGE-M3's two heads.
        head: source of a reranker's scores: `classification`, or `vocabulary` for a language model; None for others.
        layerwise: model class of a layerwise reranker, whose further configuration is in `more`.
        added_tokens: additional special tokens of its tokenizer, at the end of the vocabulary.
        more: further entries of its configuration.
    """

    family: str
    vocab_size: int
    layers: int
    hidden_size: int
    heads: int
    max_positions: int = 512
    m3_heads: bool = False
    head: str | None = None
    layerwise: str | None = None
    added_tokens: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def _minicpm(layers: int, hidden_size: int, heads: int, *, start_layer: int) -> Shape:
    more = {
        "scale_emb": 12,
        "scale_depth": 1.4,
        "start_layer": start_layer,
        "num_key_value_heads": heads,
        "intermediate_size": hidden_size * 5 // 2,
    }
    return Shape("mistral", 122_753, layers, hidden_size, heads, 2048, layerwise="decoder-only-layerwise", more=more)


def _gemma2(layers: int, hidden_size: int, heads: int, kv_heads: int, *, start_layer: int) -> Shape:
    more = {
        "layer_wise": True,
        "layer_sep": 1,
        "start_layer": start_layer,
        "num_key_value_heads": kv_heads,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "intermediate_size": hidden_size * 4,
    }
    return Shape("gemma", 256_000, layers, hidden_size, heads, 8192, layerwise="decoder-only-lightweight", more=more)


SHAPES: dict[str, Shape] = {
    "minilm-l6": Shape("bert", 30_522, 6, 384, 12),
    "bge-small": Shape("bert", 30_522, 12, 384, 12),
    "bge-base": Shape("bert", 30_522, 12, 768, 12),
    "bge-large": Shape("bert", 30_522, 24, 1024, 16),
    "e5-base": Shape("bert", 30_522, 12, 768, 12),
    "multilingual-e5-base": Shape("xlm-roberta", 250_002, 12, 768, 12, 514),
    "bge-m3": Shape("xlm-roberta", 250_002, 24, 1024, 16, 8194, m3_heads=True),
    "qwen3-embedding-0.6b": Shape(
        "qwen3",
        151_669,
        28,
        1024,
        16,
        32_768,
        more={"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072},
    ),
    "bge-en-icl": Shape(
        "mistral",
        32_003,
        32,
        4096,
        32,
        32_768,
        added_tokens=_ICL_TOKENS,
        more={"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14_336, "sliding_window": 4096},
    ),
    "icl-small": Shape(
        "mistral",
        32_003,
        8,
        1024,
        16,
        32_768,
        added_tokens=_ICL_TOKENS,
        more={"num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 3584, "sliding_window": 4096},
    ),
    "bge-reranker-base": Shape("xlm-roberta", 250_002, 12, 768, 12, 514, head="classification"),
    "bge-reranker-v2-m3": Shape("xlm-roberta", 250_002, 24, 1024, 16, 8194, head="classification"),
    "bge-reranker-v2-gemma": Shape(
        "gemma",
        256_000,
        18,
        2048,
        8,
        8192,
        head="vocabulary",
        more={"num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 16_384},
    ),
    "reranker-gemma-small": Shape(
        "gemma",
        256_000,
        9,
        1024,
        4,
        8192,
        head="vocabulary",
        more={"num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 8192},
    ),
    "bge-reranker-v2-minicpm-layerwise": _minicpm(40, 2304, 36, start_layer=8),
    "reranker-layerwise-small": _minicpm(12, 768, 12, start_layer=4),
    "bge-reranker-v2.5-gemma2-lightweight": _gemma2(42, 3584, 16, 8, start_layer=8),
    "reranker-lightweight-small": _gemma2(12, 896, 4, 2, start_layer=4),
    "m3-base": Shape("xlm-roberta", 250_002, 12, 768, 12, 8194, m3_heads=True),
}
"""Published shapes, and smaller ones that a CPU can run. `m3-base` is BGE-M3 on XLM-R base. `icl-small` is bge-en-icl
with a quarter of its width and depth. `reranker-…-small` are published rerankers with fewer layers and a smaller width.
No model of these smaller shapes was published."""


def make_checkpoint(name: str, folder: Path) -> Path:
    """Write a checkpoint of a shape with its tokenizer, unless it exists; return its folder.

    Args:
        name: key of `SHAPES`.
        folder: folder that keeps checkpoints from one run to the next.
    """
    target, shape = folder / name, SHAPES[name]
    needed = ["config.json", "model.safetensors", *(f"{head}.pt" for head in _M3_HEADS if shape.m3_heads)]
    if all((target / file).is_file() for file in needed):
        return target
    tokenizer, special = _FAMILIES[shape.family](shape.vocab_size - len(shape.added_tokens))
    tokenizer.add_special_tokens(list(shape.added_tokens))
    target.mkdir(parents=True, exist_ok=True)
    _save_tokenizer(tokenizer, special, shape, target)
    sizes = {
        "vocab_size": shape.vocab_size,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.max_positions,
        "intermediate_size": 4 * shape.hidden_size,
        **special,
        **shape.more,
    }
    if shape.layerwise is not None:
        from flagtriton_tools.layerwise_shapes import write_layered

        write_layered(sizes, shape.layerwise, target)
    else:
        _write(shape, sizes, target)
    return target


def _write(shape: Shape, sizes: Mapping[str, Any], target: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    labels = {"num_labels": 1} if shape.head == "classification" else {}
    config = AutoConfig.for_model(shape.family, **sizes, **labels)
    classes = {
        None: AutoModel,
        "classification": AutoModelForSequenceClassification,
        "vocabulary": AutoModelForCausalLM,
    }
    torch.manual_seed(0)
    classes[shape.head].from_config(config, dtype=torch.float32).save_pretrained(target)
    if shape.m3_heads:
        for head, rows in zip(_M3_HEADS, (1, shape.hidden_size), strict=True):
            torch.save(torch.nn.Linear(shape.hidden_size, rows).state_dict(), target / f"{head}.pt")


def _save_tokenizer(tokenizer: Tokenizer, special: dict[str, int], shape: Shape, target: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    names = {key.replace("_id", ""): tokenizer.id_to_token(number) for key, number in special.items()}
    longest = shape.max_positions - (2 if shape.family == "xlm-roberta" else 0)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, **names)
    wrapped.save_pretrained(target)


def _pieces() -> list[str]:
    """Return the words of the measured texts and of prompts. Common words are one piece, rare ones several."""
    from flagtriton.protocol.model_classes import MODEL_CLASSES

    texts = [
        *make_texts(Workload(count=200)),
        *dict.fromkeys(row.prompt for row in MODEL_CLASSES.values() if row.prompt is not None),
        "Yes",
    ]
    words = {word for text in texts for word in text.split()}
    return sorted(word for word in words if len(word) < 10) + list(_LETTERS)


def _word_piece(vocab_size: int) -> tuple[Tokenizer, dict[str, int]]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_pieces(), *(f"##{letter}" for letter in _LETTERS)]
    pieces += [f"##{first}{second}{third}" for first in _LETTERS for second in _LETTERS for third in "aeinorst"]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    vocab.update({f"[unused{number}]": number for number in range(len(vocab), vocab_size)})
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer, {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}


def _unigram(vocab_size: int) -> tuple[Tokenizer, dict[str, int]]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces: dict[str, float] = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>"], 0.0)
    pieces.update((f"▁{piece}", -8.0) for piece in _pieces())
    pieces.update((first + second, -11.0) for first in _LETTERS for second in _LETTERS)
    pieces.update((letter, -12.0) for letter in "▁" + _LETTERS)
    pieces.update((f"<unused{number}>", -99.0) for number in range(len(pieces), vocab_size))
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token_id": 0, "cls_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    return tokenizer, {**special, "unk_token_id": 3}


_FAMILIES: dict[str, Callable[[int], tuple[Tokenizer, dict[str, Any]]]] = {
    "bert": _word_piece,
    "gemma": _unigram,
    "xlm-roberta": _unigram,
    "mistral": _unigram,
    "qwen3": _unigram,
}
