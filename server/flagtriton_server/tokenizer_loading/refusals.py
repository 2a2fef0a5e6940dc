# SPDX-License-Identifier: Apache-2.0
"""Tokenizer classes whose ids cannot be derived from their files by a rule, each with the reason. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["check_served"]

_SEGMENTERS: Final[Mapping[str, str]] = {
    "BertJapaneseTokenizer": "MeCab",
    "CpmTokenizer": "jieba",
    "CpmAntTokenizer": "jieba",
    "RoFormerTokenizer": "jieba",
}
"""Classes that split texts into words with a separate program, which none of their files describes."""

_LANGUAGES: Final = ("MBart50Tokenizer", "MBartTokenizer", "NllbTokenizer", "PLBartTokenizer", "SeamlessM4TTokenizer")
_PAGES: Final = (
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "MarkupLMTokenizer",
    "UdopTokenizer",
)
_OTHER: Final = ("DPRReaderTokenizer", "PegasusTokenizer", "WhisperTokenizer")
_IN_PYTHON: Final = (
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertweetTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "ByT5Tokenizer",
    "CTRLTokenizer",
    "CanineTokenizer",
    "ClvpTokenizer",
    "DiaTokenizer",
    "ErnieMTokenizer",
    "EsmTokenizer",
    "FSMTTokenizer",
    "FlaubertTokenizer",
    "GPT2Tokenizer (Python)",
    "GPTNeoXJapaneseTokenizer",
    "GPTSanJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "JukeboxTokenizer",
    "LukeTokenizer",
    "M2M100Tokenizer",
    "MLukeTokenizer",
    "MarianTokenizer",
    "MgpstrTokenizer",
    "MistralCommonTokenizer",
    "MyT5Tokenizer",
    "ParakeetCTCTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "RagTokenizer",
    "RoCBertTokenizer",
    "SiglipTokenizer",
    "Speech2Text2Tokenizer",
    "Speech2TextTokenizer",
    "SpeechT5Tokenizer",
    "TapasTokenizer",
    "TapexTokenizer",
    "TransfoXLTokenizer",
    "VitsTokenizer",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2PhonemeCTCTokenizer",
    "XLMProphetNetTokenizer",
    "XLMTokenizer",
)
_REASONS: Final[Mapping[str, str]] = {
    **{name: f"cuts texts into words with {program}" for name, program in _SEGMENTERS.items()},
    **dict.fromkeys(_LANGUAGES, "puts the code of a language around every text"),
    **dict.fromkeys(_PAGES, "tokenises the words of a page with their places"),
    **dict.fromkeys(_OTHER, "is made for other tasks than embedding"),
    **dict.fromkeys(_IN_PYTHON, "ran as Python code in transformers 4, which reads no tokenizer.json"),
}


def check_served(checkpoint: str, name: str | None, saved_by_5: bool) -> None:
    """Check that the tokenizer class of a checkpoint, given by its name without `Fast`, can be served.

    Raises:
        ValueError: the class cannot be served; the message gives the reason and a remedy.
    """
    if name is None or name not in _REASONS or (saved_by_5 and name not in _SEGMENTERS):
        return
    advice = (
        ""
        if name in _SEGMENTERS
        else "; if the ids of its tokenizer.json are right as they stand, set tokenizer_class in tokenizer_config.json "
        "to PreTrainedTokenizerFast"
    )
    raise ValueError(
        f"{checkpoint} is tokenised by {name}, which {_REASONS[name]}; such tokenizers are not served{advice}"
    )
