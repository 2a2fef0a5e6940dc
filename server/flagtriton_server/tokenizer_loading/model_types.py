# SPDX-License-Identifier: Apache-2.0
"""The tokenizer class that transformers 4.57 used for a checkpoint that names none, by `model_type`. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["CLASS_OF_MODEL_TYPE"]

_MODEL_TYPES: Final[Mapping[str, str]] = {
    "AlbertTokenizer": "albert nystromformer yoso",
    "BartTokenizer": "bart",
    "BertGenerationTokenizer": "bert-generation",
    "BertTokenizer": (
        "align bark bert blip bros chinese_clip ernie git grounding-dino megatron-bert mm-grounding-dino nezha "
        "qdqbert tvp vilt visual_bert"
    ),
    "BigBirdTokenizer": "big_bird",
    "BioGptTokenizer": "biogpt",
    "BlenderbotSmallTokenizer": "blenderbot-small",
    "BlenderbotTokenizer": "blenderbot",
    "BloomTokenizer": "bloom",
    "CLIPTokenizer": "aimv2 clip clipseg groupvit omdet-turbo oneformer owlv2 owlvit xclip",
    "CTRLTokenizer": "ctrl",
    "CamembertTokenizer": "camembert",
    "CanineTokenizer": "canine",
    "ClvpTokenizer": "clvp",
    "CodeGenTokenizer": "codegen phi",
    "CohereTokenizer": "aya_vision cohere cohere2",
    "ConvBertTokenizer": "convbert",
    "CpmAntTokenizer": "cpmant",
    "DPRQuestionEncoderTokenizer": "dpr",
    "DebertaTokenizer": "deberta",
    "DebertaV2Tokenizer": "deberta-v2",
    "DiaTokenizer": "dia",
    "DistilBertTokenizer": "distilbert",
    "ElectraTokenizer": "electra",
    "ErnieMTokenizer": "ernie_m",
    "EsmTokenizer": "esm",
    "FNetTokenizer": "fnet",
    "FSMTTokenizer": "fsmt",
    "FlaubertTokenizer": "flaubert",
    "FunnelTokenizer": "funnel",
    "GPT2Tokenizer": (
        "blip-2 dbrx emu3 exaone4 flex_olmo gpt-sw3 gpt2 gpt_bigcode gpt_neo gptj instructblip instructblipvideo "
        "minimax olmo3 opt starcoder2"
    ),
    "GPT2Tokenizer (Python)": "granite granitemoe granitemoehybrid granitemoeshared",
    "GPTNeoXJapaneseTokenizer": "gpt_neox_japanese",
    "GPTNeoXTokenizer": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmo2 olmoe rwkv stablelm xlstm",
    "GPTSanJapaneseTokenizer": "gptsan-japanese",
    "GemmaTokenizer": (
        "gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 siglip2 t5gemma"
    ),
    "JukeboxTokenizer": "jukebox",
    "LEDTokenizer": "led",
    "LayoutLMTokenizer": "layoutlm",
    "LayoutLMv2Tokenizer": "layoutlmv2",
    "LayoutLMv3Tokenizer": "layoutlmv3 lilt",
    "LlamaTokenizer": (
        "arcee aria chameleon code_llama colpali deepseek_v2 deepseek_v3 deepseek_vl deepseek_vl_hybrid diffllama "
        "ernie4_5 ernie4_5_moe granitevision idefics idefics2 idefics3 jamba janus jetmoe llama llama4 llama4_text "
        "llava llava_next llava_next_video llava_onevision ministral mistral mistral3 mixtral mllama paligemma "
        "persimmon phi3 phimoe video_llava vipllava zamba zamba2"
    ),
    "LongformerTokenizer": "longformer",
    "LukeTokenizer": "luke",
    "LxmertTokenizer": "lxmert",
    "M2M100Tokenizer": "m2m_100",
    "MBartTokenizer": "mbart",
    "MPNetTokenizer": "mpnet",
    "MarianTokenizer": "marian",
    "MgpstrTokenizer": "mgp-str",
    "MobileBertTokenizer": "mobilebert",
    "MvpTokenizer": "mvp",
    "NllbTokenizer": "nllb-moe",
    "OpenAIGPTTokenizer": "openai-gpt",
    "PLBartTokenizer": "plbart",
    "PegasusTokenizer": "bigbird_pegasus pegasus pegasus_x",
    "PerceiverTokenizer": "perceiver",
    "PreTrainedTokenizer": (
        "bitnet blt csm falcon glm glm4 glm4_moe glm4v glm4v_moe gpt_oss helium kosmos-2.5 modernbert moonshine "
        "moshi nemotron pixtral smollm3 voxtral"
    ),
    "ProphetNetTokenizer": "prophetnet",
    "Qwen2Tokenizer": (
        "colqwen2 internvl qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3 qwen3_moe qwen3_next "
        "qwen3_omni_moe qwen3_vl qwen3_vl_moe"
    ),
    "RagTokenizer": "rag",
    "RealmTokenizer": "realm",
    "ReformerTokenizer": "reformer",
    "RemBertTokenizer": "rembert",
    "RetriBertTokenizer": "retribert",
    "RoCBertTokenizer": "roc_bert",
    "RoFormerTokenizer": "roformer",
    "RobertaTokenizer": "bridgetower clap data2vec-text ibert mega mra roberta roberta-prelayernorm",
    "SeamlessM4TTokenizer": "seamless_m4t seamless_m4t_v2",
    "SiglipTokenizer": "siglip",
    "Speech2Text2Tokenizer": "speech_to_text_2",
    "Speech2TextTokenizer": "speech_to_text",
    "SpeechT5Tokenizer": "speecht5",
    "SplinterTokenizer": "splinter",
    "SqueezeBertTokenizer": "squeezebert",
    "T5Tokenizer": "longt5 mt5 musicgen musicgen_melody pix2struct switch_transformers t5 umt5",
    "TapasTokenizer": "tapas",
    "TransfoXLTokenizer": "transfo-xl",
    "UdopTokenizer": "udop",
    "VitsTokenizer": "vits",
    "Wav2Vec2CTCTokenizer": "data2vec-audio hubert wav2vec2 wav2vec2-bert wav2vec2-conformer",
    "WhisperTokenizer": "whisper",
    "XGLMTokenizer": "xglm",
    "XLMProphetNetTokenizer": "xlm-prophetnet",
    "XLMRobertaTokenizer": "kosmos-2 metaclip_2 xlm-roberta xlm-roberta-xl xmod",
    "XLMTokenizer": "xlm",
    "XLNetTokenizer": "xlnet",
}
"""The model types of each class; class names have no final `Fast`."""

CLASS_OF_MODEL_TYPE: Final[Mapping[str, str]] = {
    model_type: name for name, model_types in _MODEL_TYPES.items() for model_type in model_types.split()
}
