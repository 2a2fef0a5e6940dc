# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.loading.configuration_check`: what a `config.json` may ask for that would be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from flagtriton_server.loading.configuration_check import check_configuration

LONG = {"rope_type": "longrope", "original_max_position_embeddings": 4096, "long_factor": [4.0], "short_factor": [1.0]}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert"},
        {"model_type": "bert", "position_embedding_type": "absolute"},
        {"model_type": "nomic_bert", "position_embedding_type": "rotary"},
        {"model_type": "bart", "is_encoder_decoder": True},
        {"model_type": "qwen2", "rope_parameters": {**LONG, "rope_type": "yarn"}},
        {"model_type": "phi3", "rope_parameters": {**LONG, "original_max_position_embeddings": 8192}},
        {"model_type": "phi3", "rope_scaling": None},
    ],
)
def test_what_is_computed_right_passes(config: dict[str, Any]) -> None:
    check_configuration("here", config, 8192)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_of_bert_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"here has position_embedding_type '{kind}', which transformers 5 does not"):
        check_configuration("here", {"model_type": "bert", "position_embedding_type": kind}, 512)


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5", "longt5"])
def test_an_encoder_decoder_of_t5s_kin_is_refused_by_name(model_type: str) -> None:
    with pytest.raises(ValueError, match=f"encoder-decoder architecture '{model_type}', which is not served"):
        check_configuration("here", {"model_type": model_type, "is_encoder_decoder": True}, 512)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": LONG},
        {"rope_parameters": {"full_attention": LONG, "sliding_attention": {"rope_type": "default"}}},
        {"rope_scaling": {"type": "longrope", "long_factor": [4.0]}, "original_max_position_embeddings": 4096},
    ],
)
def test_rotary_angles_that_one_long_text_changes_for_all_are_refused_beyond_that_length(
    config: dict[str, Any],
) -> None:
    check_configuration("here", config, 4096)
    with pytest.raises(ValueError, match=r"more than 4096 tokens .* add it again with --force --max-length 4096"):
        check_configuration("here", config, 4097)
