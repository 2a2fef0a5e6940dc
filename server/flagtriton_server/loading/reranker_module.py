# SPDX-License-Identifier: Apache-2.0
"""A reranker with its own head, in place of an encoder: the vector of each token is the score of its pair."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

__all__ = ["ScoreAsHiddenState"]


class ScoreAsHiddenState(nn.Module):
    """A sequence classifier with the interface of an encoder whose hidden size is 1.

    Args:
        classifier: a model of transformers or of a checkpoint's code.
        labels: number of labels of its head.
        checkpoint: name for the message.

    Raises:
        ValueError: the head has several labels.
    """

    def __init__(self, classifier: nn.Module, labels: int, checkpoint: str) -> None:
        super().__init__()
        if labels != 1:
            raise ValueError(f"{checkpoint} has a head for {labels} labels; a reranker has one")
        self.classifier = classifier

    def forward(self, input_ids: Tensor, **arguments: Any) -> SimpleNamespace:
        """Return `last_hidden_state` `[M, T, 1]` float32, the same number for all tokens of a row, for ids `[M, T]`."""
        logits = self.classifier(input_ids=input_ids, **arguments).logits.float()  # [M, 1]
        return SimpleNamespace(last_hidden_state=logits[:, None].expand(-1, input_ids.shape[1], -1))
