# SPDX-License-Identifier: Apache-2.0
"""Which head a reranker class has. Imports nothing of Triton's."""

from __future__ import annotations

import torch

from flagtriton.protocol.settings import RerankerHeadSettings
from flagtriton_server.engines.base import Precision
from flagtriton_server.heads.classifier import RerankerHead, classification_head, vocabulary_head

__all__ = ["load_reranker_head"]


def load_reranker_head(settings: RerankerHeadSettings, precision: Precision, device: torch.device) -> RerankerHead:
    """Return a checkpoint's head.

    Args:
        settings: which checkpoint, and the class it is of.
        precision: the encoder's; a head is rounded as its weights are, but computes in float32: in half precision
            many of a query's passages would get the same score.
        device: where the head computes.

    Raises:
        OSError: the checkpoint is not there.
        ValueError: it has no such head, or one for several labels, or no token for "Yes".
    """
    if settings.scored_in_encoder:
        return lambda states, _: states.squeeze(-1)
    if settings.row.layerwise:
        from flagtriton_server.layerwise.heads import layer_heads

        return layer_heads(settings, precision, device)
    load = vocabulary_head if settings.row.decoder else classification_head
    return load(settings, precision, device)
