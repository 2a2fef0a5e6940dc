# SPDX-License-Identifier: Apache-2.0
"""What each tokenizer class of transformers 4 did to `tokenizer.json` when it loaded it: one row a class.

Published checkpoints were saved by, and trained with, transformers 4, whose classes read `tokenizer.json` and then
changed it by the flags in `tokenizer_config.json`. transformers 5 ignores some of these flags and builds parts of the
tokenizer itself, so its ids differ. docs/tokenizers.md has the rules in words; `tests/golden/tokenizers.json` holds
what transformers 4.57.3 does. Pure data; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tokenizers import AddedToken

__all__ = ["CLASSES", "OWN_CODE_WITH_FLAGS", "TokenizerClass", "class_name", "class_of"]


@dataclass(frozen=True)
class TokenizerClass:
    """One row.

    Attributes:
        special_tokens: the class's defaults, where `tokenizer_config.json` names none.
        template_flags: defaults of `add_bos_token` and `add_eos_token`, where the class builds its template from them;
            None where the template is the file's.
        normalizer_flags: the normalizer's keys that flags of `tokenizer_config.json` overwrite, each with its flag and
            the flag's default.
        prefix_space: default of `add_prefix_space`; None where the file's own value stands unless the flag is given.
        vocabulary: which conversion reads the class's own vocabulary files, where there is no `tokenizer.json`; None
            where there is none here.
    """

    special_tokens: Mapping[str, str | AddedToken] = field(default_factory=dict)
    template_flags: tuple[bool, bool] | None = None
    normalizer_flags: Mapping[str, tuple[str, bool | None]] = field(default_factory=dict)
    prefix_space: bool | None = None
    vocabulary: str | None = None


def _lstrip(content: str, **flags: bool) -> AddedToken:
    return AddedToken(content, lstrip=True, **flags)


_BERT_TOKENS: Final = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_BRACKETED_TOKENS: Final = {"bos_token": "[CLS]", "eos_token": "[SEP]", **_BERT_TOKENS}
_ROBERTA_TOKENS: Final = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
}
_ENDOFTEXT: Final = "<|endoftext|>"
_CASE_FLAGS: Final[dict[str, tuple[str, bool | None]]] = {
    "lowercase": ("do_lower_case", True),
    "strip_accents": ("strip_accents", None),
}
_BERT_FLAGS: Final = {**_CASE_FLAGS, "handle_chinese_chars": ("tokenize_chinese_chars", True)}

_BERT = TokenizerClass(_BERT_TOKENS, normalizer_flags=_BERT_FLAGS, vocabulary="wordpiece")
_BERT_KIN = (
    "BertTokenizer",
    "ConvBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "RealmTokenizer",
    "RetriBertTokenizer",
    "SqueezeBertTokenizer",
)
_ROBERTA = TokenizerClass(
    {**_ROBERTA_TOKENS, "mask_token": _lstrip("<mask>", normalized=False)},
    prefix_space=False,
    vocabulary="byte_level_roberta",
)
_GPT2 = TokenizerClass(
    {"unk_token": _ENDOFTEXT, "bos_token": _ENDOFTEXT, "eos_token": _ENDOFTEXT},
    prefix_space=False,
    vocabulary="byte_level_gpt2",
)
_LLAMA = TokenizerClass(
    {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}, template_flags=(True, False), vocabulary="llama"
)

CLASSES: Final[Mapping[str, TokenizerClass]] = {
    **dict.fromkeys(_BERT_KIN, _BERT),
    **dict.fromkeys(
        ("RobertaTokenizer", "BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"), _ROBERTA
    ),
    "AlbertTokenizer": TokenizerClass(
        {
            **_BRACKETED_TOKENS,
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": _lstrip("[MASK]", normalized=False),
        },
        vocabulary="albert",
    ),
    "CamembertTokenizer": TokenizerClass(
        {**_ROBERTA_TOKENS, "mask_token": _lstrip("<mask>", special=True)}, vocabulary="camembert"
    ),
    "CodeLlamaTokenizer": TokenizerClass(_LLAMA.special_tokens, template_flags=(True, False)),
    "CodeGenTokenizer": TokenizerClass(_GPT2.special_tokens, prefix_space=False),
    "CohereTokenizer": TokenizerClass(
        {"unk_token": "<UNK>", "bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"},
        template_flags=(True, False),
        prefix_space=False,
    ),
    "DebertaTokenizer": TokenizerClass({**_BRACKETED_TOKENS, "mask_token": _lstrip("[MASK]")}, prefix_space=False),
    "DebertaV2Tokenizer": TokenizerClass(_BRACKETED_TOKENS, vocabulary="deberta_v2"),
    "FunnelTokenizer": TokenizerClass(
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "sep_token": "<sep>",
            "pad_token": "<pad>",
            "cls_token": "<cls>",
            "mask_token": "<mask>",
        },
        normalizer_flags=_BERT_FLAGS,
    ),
    "GPT2Tokenizer": _GPT2,
    "GPTNeoXTokenizer": TokenizerClass(_GPT2.special_tokens, template_flags=(False, False), prefix_space=False),
    "GemmaTokenizer": TokenizerClass(
        {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        template_flags=(True, False),
        vocabulary="gemma",
    ),
    "LlamaTokenizer": _LLAMA,
    "MPNetTokenizer": TokenizerClass(
        {
            **{name: AddedToken(token) for name, token in {**_ROBERTA_TOKENS, "unk_token": "[UNK]"}.items()},
            "mask_token": _lstrip("<mask>"),
        },
        normalizer_flags=_CASE_FLAGS,
        vocabulary="mpnet",
    ),
    "Qwen2Tokenizer": TokenizerClass(
        {"unk_token": _ENDOFTEXT, "eos_token": _ENDOFTEXT, "pad_token": _ENDOFTEXT}, vocabulary="byte_level_qwen2"
    ),
    "SplinterTokenizer": TokenizerClass(_BERT_TOKENS, normalizer_flags=_BERT_FLAGS),
    "XLMRobertaTokenizer": TokenizerClass(
        {**_ROBERTA_TOKENS, "mask_token": _lstrip("<mask>")}, vocabulary="xlm_roberta"
    ),
}
"""By name, without `Fast` at its end. A class that is not here changed nothing but `add_prefix_space`."""

OWN_CODE_WITH_FLAGS: Final = ("tokenization_qwen.Qwen2TokenizerFast", "tokenization_qwen.Qwen2Tokenizer")
"""Tokenizer code that checkpoints bring, which does no more than build the template from flags: gte-Qwen2's."""

_MODEL_TYPES: Final[Mapping[str, str]] = {
    "AlbertTokenizer": "albert nystromformer yoso",
    "BartTokenizer": "bart",
    "BertTokenizer": (
        "align bark bert blip bros chinese_clip ernie git grounding-dino megatron-bert mm-grounding-dino "
        "nezha qdqbert tvp vilt visual_bert"
    ),
    "CamembertTokenizer": "camembert",
    "CodeGenTokenizer": "codegen phi",
    "CodeLlamaTokenizer": "code_llama",
    "CohereTokenizer": "aya_vision cohere cohere2",
    "ConvBertTokenizer": "convbert",
    "DPRQuestionEncoderTokenizer": "dpr",
    "DebertaTokenizer": "deberta",
    "DebertaV2Tokenizer": "deberta-v2",
    "DistilBertTokenizer": "distilbert",
    "ElectraTokenizer": "electra",
    "FunnelTokenizer": "funnel",
    "GPT2Tokenizer": (
        "blip-2 dbrx emu3 exaone4 flex_olmo gpt2 gpt_bigcode gpt_neo gptj granite granitemoe granitemoehybrid "
        "granitemoeshared instructblip instructblipvideo minimax olmo3 opt starcoder2"
    ),
    "GPTNeoXTokenizer": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmo2 olmoe rwkv stablelm xlstm",
    "GemmaTokenizer": (
        "gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 siglip2 t5gemma"
    ),
    "LEDTokenizer": "led",
    "LayoutLMTokenizer": "layoutlm",
    "LlamaTokenizer": (
        "arcee aria chameleon colpali deepseek_v2 deepseek_v3 deepseek_vl deepseek_vl_hybrid diffllama "
        "ernie4_5 ernie4_5_moe idefics idefics2 idefics3 jamba janus jetmoe llama llama4 llama4_text llava "
        "llava_next llava_next_video llava_onevision ministral mistral mistral3 mixtral mllama paligemma "
        "persimmon phi3 phimoe video_llava vipllava zamba zamba2"
    ),
    "LongformerTokenizer": "longformer",
    "LxmertTokenizer": "lxmert",
    "MPNetTokenizer": "mpnet",
    "MobileBertTokenizer": "mobilebert",
    "MvpTokenizer": "mvp",
    "Qwen2Tokenizer": (
        "colqwen2 internvl qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3 qwen3_moe "
        "qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe"
    ),
    "RealmTokenizer": "realm",
    "RetriBertTokenizer": "retribert",
    "RobertaTokenizer": "bridgetower clap data2vec-text ibert mega mra roberta roberta-prelayernorm",
    "SplinterTokenizer": "splinter",
    "SqueezeBertTokenizer": "squeezebert",
    "XLMRobertaTokenizer": "kosmos-2 metaclip_2 xlm-roberta xlm-roberta-xl xmod",
}
"""Model types of transformers 4.57.3 by the class that it takes for a checkpoint that names none."""

_BY_MODEL_TYPE: Final = {kind: name for name, kinds in _MODEL_TYPES.items() for kind in kinds.split()}


def class_name(tokenizer_config: Mapping[str, Any], model_config: Mapping[str, Any]) -> str | None:
    """Return the class that transformers 4 took, without `Fast`: the tokenizer's word, the model's, or its type's."""
    named = tokenizer_config.get("tokenizer_class") or model_config.get("tokenizer_class")
    if named:
        return str(named).removesuffix("Fast")
    return _BY_MODEL_TYPE.get(str(model_config.get("model_type")))


def class_of(name: str | None, own_code: str | None) -> TokenizerClass:
    """Return a class's row.

    Args:
        name: as `class_name` returns it.
        own_code: the class in `auto_map` that transformers would have run, `module.Name`, if any.
    """
    row = CLASSES.get(name or "", TokenizerClass())
    if own_code in OWN_CODE_WITH_FLAGS:
        return TokenizerClass(row.special_tokens, (False, False), vocabulary=row.vocabulary)
    return row
