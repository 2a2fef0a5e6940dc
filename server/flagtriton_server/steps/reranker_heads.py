# SPDX-License-Identifier: Apache-2.0
"""The head of each reranker class. Imports nothing from Triton."""

from __future__ import annotations

import torch

from flagtriton.protocol.settings import RerankerHeadSettings
from flagtriton_server.engines.base import Precision
from flagtriton_server.heads.classifier import RerankerHead, classification_head, vocabulary_head

__all__ = ["load_reranker_head"]


def load_reranker_head(settings: RerankerHeadSettings, precision: Precision, device: torch.device) -> RerankerHead:
    """Return the head of a checkpoint.

    Args:
        settings: the checkpoint and its model class.
        precision: precision of the encoder. The head is rounded like the encoder's weights, but computes in float32.
            In half precision many passages of a query would get the same score.
        device: device on which the head computes.

    Raises:
        OSError: the checkpoint cannot be found.
        ValueError: it has no such head, a head for several labels, or no token for "Yes".
    """
    if settings.scored_in_encoder:
        return lambda states, _: states.squeeze(-1)
    if settings.row.layerwise:
        from flagtriton_server.layerwise.heads import layer_heads

        return layer_heads(settings, precision, device)
    load = vocabulary_head if settings.row.decoder else classification_head
    return load(settings, precision, device)
