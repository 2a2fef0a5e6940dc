# SPDX-License-Identifier: Apache-2.0
"""The check for entries of a checkpoint's `config.json` that would lead to wrong answers. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["check_configuration"]

_RELATIVE = ("relative_key", "relative_key_query")


def check_configuration(checkpoint: str, config: Mapping[str, Any], max_length: int) -> None:
    """Raise if the architecture that transformers 5 builds is not the one in which the weights were trained.

    Args:
        checkpoint: name for the message.
        config: the checkpoint's `config.json`, as transformers completes it.
        max_length: `max_length` of the deployment.

    Raises:
        ValueError: the model is BERT with relative positions, which transformers 5 omits without a warning. Or it is
            T5, an encoder-decoder architecture. Or its rotary angles change for all texts of a batch if one text is
            long, and `max_length` allows such a text.
    """
    positions = config.get("position_embedding_type")
    if positions in _RELATIVE:
        raise ValueError(
            f"{checkpoint} has position_embedding_type {positions!r}, which transformers 5 does not compute; its "
            "vectors would be wrong. Absolute positions are served: use another checkpoint"
        )
    model_type = str(config.get("model_type"))
    if "t5" in model_type and config.get("is_encoder_decoder"):
        raise ValueError(
            f"{checkpoint} is of the encoder-decoder architecture {model_type!r}, which is not served; encoders such "
            "as BERT or XLM-RoBERTa and decoders such as Mistral or Qwen2 are"
        )
    for rotary in _rotary(config):
        length = rotary.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
        kind = rotary.get("rope_type", rotary.get("type"))
        if kind == "longrope" and isinstance(length, int) and max_length > length:
            raise ValueError(
                f"{checkpoint} has rotary embeddings of type 'longrope': one text of more than {length} tokens would "
                f"change the vectors of all texts beside it, and the deployment's max_length is {max_length}; add it "
                f"again with --force --max-length {length}"
            )


def _rotary(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of rotary embeddings, those of all layers or of each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        parameters = config.get(name)
        if isinstance(parameters, Mapping):
            yield parameters
            yield from (kind for kind in parameters.values() if isinstance(kind, Mapping))
