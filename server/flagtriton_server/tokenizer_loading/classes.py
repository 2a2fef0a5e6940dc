# SPDX-License-Identifier: Apache-2.0
"""The changes that each tokenizer class of transformers 4 made to `tokenizer.json` on loading: one row per class.

Published checkpoints were saved by transformers 4 and trained with it. Its classes read `tokenizer.json` and then
changed it by the flags in `tokenizer_config.json`. transformers 5 ignores some of these flags and builds parts of the
tokenizer itself, so its ids differ. docs/tokenizers.md has the rules in words. `tests/golden/tokenizers.json` holds the
results of transformers 4.57.3. The module is pure data and reads no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tokenizers import AddedToken

from flagtriton_server.tokenizer_loading.model_types import CLASS_OF_MODEL_TYPE

__all__ = ["CLASSES", "OWN_CODE_WITH_FLAGS", "TokenizerClass", "class_name", "class_of"]


@dataclass(frozen=True)
class NumberedTokens:
    """Special tokens that differ in a number, which a class adds itself.

    Attributes:
        form: text of a token around its number.
        count: number of tokens.
        flag: the key of `tokenizer_config.json` that overwrites `count`. With such a flag, a checkpoint names all of
            the tokens or none.
    """

    form: str
    count: int
    flag: str | None = None


@dataclass(frozen=True)
class TokenizerClass:
    """One tokenizer class.

    Attributes:
        special_tokens: defaults of the class for special tokens that `tokenizer_config.json` does not name.
        template_flags: defaults of `add_bos_token` and `add_eos_token`, if the class builds its template from them.
            None if the template is that of the file.
        normalizer_flags: keys of the normalizer that flags of `tokenizer_config.json` overwrite, each with its flag and
            the flag's default.
        prefix_space: default of `add_prefix_space`; None if the value of the file applies unless the flag is given.
        prefix_space_converts: with `add_prefix_space`, the class reads its own vocabulary files.
        prefix_space_within: `add_prefix_space` also sets this flag in the parts of a sequence.
        additional: default of `additional_special_tokens`.
        further: flags that name further special tokens, with their defaults.
        numbered: further special tokens that differ in a number.
        vocabulary: the conversion that reads the vocabulary files of the class if there is no `tokenizer.json`. None if
            this package has no such conversion.
    """

    special_tokens: Mapping[str, str | AddedToken] = field(default_factory=dict)
    template_flags: tuple[bool, bool] | None = None
    normalizer_flags: Mapping[str, tuple[str, bool | None]] = field(default_factory=dict)
    prefix_space: bool | None = None
    prefix_space_converts: bool = False
    prefix_space_within: bool = False
    additional: tuple[str, ...] = ()
    further: Mapping[str, str] = field(default_factory=dict)
    numbered: NumberedTokens | None = None
    vocabulary: str | None = None


def _flagged(tokens: Mapping[str, str], **flags: bool) -> dict[str, str | AddedToken]:
    return {name: AddedToken(token, **flags) for name, token in tokens.items()}


def _lstrip(content: str, **flags: bool) -> str | AddedToken:
    return AddedToken(content, lstrip=True, **flags)


_BERT_TOKENS: Final = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_BRACKETED_TOKENS: Final = {"bos_token": "[CLS]", "eos_token": "[SEP]", **_BERT_TOKENS}
_ROBERTA_TOKENS: Final[dict[str, str]] = {
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
_BART = replace(
    _ROBERTA, special_tokens={**_ROBERTA_TOKENS, "mask_token": _lstrip("<mask>", normalized=True, special=True)}
)
_GPT2 = TokenizerClass(
    {"unk_token": _ENDOFTEXT, "bos_token": _ENDOFTEXT, "eos_token": _ENDOFTEXT},
    prefix_space=False,
    vocabulary="byte_level_gpt2",
)
_LLAMA = TokenizerClass(
    {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    template_flags=(True, False),
    prefix_space_converts=True,
    vocabulary="llama",
)
_T5 = TokenizerClass(
    {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    numbered=NumberedTokens("<extra_id_{}>", 100, "extra_ids"),
    prefix_space_converts=True,
)
_XLM_ROBERTA_TOKENS: Final[dict[str, str | AddedToken]] = {**_ROBERTA_TOKENS, "mask_token": _lstrip("<mask>")}
_XLNET_TOKENS: Final = {"unk_token": "<unk>", "sep_token": "<sep>", "pad_token": "<pad>", "cls_token": "<cls>"}
_FILLS: Final = {"prefix": "PRE", "middle": "MID", "suffix": "SUF", "eot": "EOT"}

CLASSES: Final[Mapping[str, TokenizerClass]] = {
    **dict.fromkeys(_BERT_KIN, _BERT),
    **dict.fromkeys(("RobertaTokenizer", "LongformerTokenizer"), _ROBERTA),
    **dict.fromkeys(("BartTokenizer", "LEDTokenizer"), _BART),
    **dict.fromkeys(("T5Tokenizer", "MT5Tokenizer"), _T5),
    "AlbertTokenizer": TokenizerClass(
        {
            **_BRACKETED_TOKENS,
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": _lstrip("[MASK]", normalized=False),
        },
        vocabulary="albert",
    ),
    "BarthezTokenizer": TokenizerClass(_XLM_ROBERTA_TOKENS),
    "BigBirdTokenizer": TokenizerClass(
        {**_flagged({**_ROBERTA_TOKENS, "sep_token": "[SEP]", "cls_token": "[CLS]"}), "mask_token": _lstrip("[MASK]")}
    ),
    "BlenderbotTokenizer": replace(_ROBERTA, vocabulary=None),
    "BloomTokenizer": TokenizerClass(
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        prefix_space=False,
        prefix_space_within=True,
    ),
    "CLIPTokenizer": TokenizerClass(
        {**_GPT2.special_tokens, "bos_token": "<|startoftext|>", "pad_token": _ENDOFTEXT},
    ),
    "CamembertTokenizer": TokenizerClass(
        {
            **_ROBERTA_TOKENS,
            "mask_token": _lstrip("<mask>", special=True),
        },
        additional=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
        vocabulary="camembert",
    ),
    "CodeGenTokenizer": _GPT2,
    "CodeLlamaTokenizer": TokenizerClass(
        _LLAMA.special_tokens,
        template_flags=(True, False),
        further={f"{flag}_token": f"▁<{token}>" for flag, token in _FILLS.items()},
    ),
    "CohereTokenizer": TokenizerClass(
        {"unk_token": "<UNK>", "bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"},
        template_flags=(True, False),
        prefix_space=False,
        prefix_space_within=True,
    ),
    "DebertaTokenizer": TokenizerClass(_BRACKETED_TOKENS, prefix_space=False),
    "DebertaV2Tokenizer": TokenizerClass(_BRACKETED_TOKENS, vocabulary="deberta_v2"),
    "FNetTokenizer": TokenizerClass(
        {
            **_flagged({"cls_token": "[CLS]", "sep_token": "[SEP]"}),
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": _lstrip("[MASK]"),
        }
    ),
    "FunnelTokenizer": TokenizerClass(
        {**_XLNET_TOKENS, "mask_token": "<mask>", "bos_token": "<s>", "eos_token": "</s>"},
        normalizer_flags=_BERT_FLAGS,
        vocabulary="wordpiece",
    ),
    "GPT2Tokenizer": _GPT2,
    "GPTNeoXTokenizer": TokenizerClass(_GPT2.special_tokens, template_flags=(False, False), prefix_space=False),
    "GemmaTokenizer": TokenizerClass(
        {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        template_flags=(True, False),
        vocabulary="gemma",
    ),
    "HerbertTokenizer": TokenizerClass(
        {
            "cls_token": "<s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
            "sep_token": "</s>",
        }
    ),
    "LlamaTokenizer": _LLAMA,
    "MPNetTokenizer": TokenizerClass(
        {**_flagged({**_ROBERTA_TOKENS, "unk_token": "[UNK]"}), "mask_token": _lstrip("<mask>")},
        normalizer_flags=_CASE_FLAGS,
        vocabulary="mpnet",
    ),
    "MvpTokenizer": replace(_ROBERTA, special_tokens={**_flagged(_ROBERTA_TOKENS), "mask_token": _lstrip("<mask>")}),
    "OpenAIGPTTokenizer": TokenizerClass({"unk_token": "<unk>"}),
    "Qwen2Tokenizer": TokenizerClass(
        _flagged(
            {"unk_token": _ENDOFTEXT, "eos_token": _ENDOFTEXT, "pad_token": _ENDOFTEXT}, special=True, normalized=False
        ),
        vocabulary="byte_level_qwen2",
    ),
    "ReformerTokenizer": TokenizerClass({"eos_token": "</s>", "unk_token": "<unk>"}),
    "RemBertTokenizer": TokenizerClass(
        {**_BRACKETED_TOKENS, "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": _lstrip("[MASK]")}
    ),
    "SplinterTokenizer": TokenizerClass(
        _BERT_TOKENS, normalizer_flags=_CASE_FLAGS, further={"question_token": "[QUESTION]"}
    ),
    "XGLMTokenizer": TokenizerClass(_ROBERTA_TOKENS, prefix_space=False, numbered=NumberedTokens("<madeupword{}>", 7)),
    "XLMRobertaTokenizer": TokenizerClass(_XLM_ROBERTA_TOKENS, vocabulary="xlm_roberta"),
    "XLNetTokenizer": TokenizerClass(
        {
            **_XLNET_TOKENS,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "mask_token": _lstrip("<mask>"),
        },
        additional=("<eop>", "<eod>"),
    ),
}
"""Rows by class name, without the final `Fast`. A class without a row changed nothing but `add_prefix_space`."""

OWN_CODE_WITH_FLAGS: Final = ("tokenization_qwen.Qwen2TokenizerFast", "tokenization_qwen.Qwen2Tokenizer")
"""Tokenizer code in checkpoints that only builds the template from flags: that of gte-Qwen2."""


def class_name(tokenizer_config: Mapping[str, Any], model_config: Mapping[str, Any]) -> str | None:
    """Return the class that transformers 4 used, without `Fast`.

    The tokenizer's configuration comes first, then the model's configuration, then the model type.
    """
    named = tokenizer_config.get("tokenizer_class") or model_config.get("tokenizer_class")
    if named:
        return str(named).removesuffix("Fast")
    return CLASS_OF_MODEL_TYPE.get(str(model_config.get("model_type")))


def class_of(name: str | None, own_code: str | None) -> TokenizerClass:
    """Return the row of a class.

    Args:
        name: the result of `class_name`.
        own_code: the class in `auto_map` that transformers would have run, `module.Name`, if any.
    """
    row = CLASSES.get(name or "", TokenizerClass())
    if own_code in OWN_CODE_WITH_FLAGS:
        return replace(row, template_flags=(False, False))
    return row
