# SPDX-License-Identifier: Apache-2.0
"""The heads of encoder rerankers: a pair's first token vector to its score. Pure torch but for the loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from flagtriton_server.forward import Precision
from flagtriton_server.settings import HeadSettings

__all__ = ["Classifier", "load_classifier"]

Classifier: TypeAlias = Callable[[Tensor], Tensor]
"""Takes first token vectors `[P, D]`; returns logits `[P]`, float32."""


def load_classifier(settings: HeadSettings, precision: Precision, device: torch.device) -> Classifier:
    """Return a checkpoint's classification head.

    The checkpoint's own class is loaded without its layers, so that the head is read as transformers reads it and
    little more; what it has of embeddings stays mapped from its file and is never touched.

    Raises:
        ValueError: the checkpoint has no head, or one for several labels.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(settings.checkpoint, revision=settings.revision or "main")
    if config.num_labels != 1:
        raise ValueError(f"{settings.checkpoint} has a head for {config.num_labels} labels; a reranker has one")
    config.num_hidden_layers = 0
    model, report = AutoModelForSequenceClassification.from_pretrained(
        settings.checkpoint,
        config=config,
        dtype=precision.stored,
        output_loading_info=True,
        revision=settings.revision or "main",
    )
    if report["missing_keys"]:
        raise ValueError(f"{settings.checkpoint} lacks {min(report['missing_keys'])}; it is no reranker of this class")
    model = model.eval()
    head = _bert_head(model) if hasattr(model, "bert") else model.classifier
    head = head.to(device=device, dtype=precision.computed)

    def classify(states: Tensor) -> Tensor:
        logits: Tensor = head(states.to(device=device, dtype=precision.computed).unsqueeze(1))  # [P, 1]
        return logits.squeeze(-1).float()

    return classify


class _BertHead(torch.nn.Module):  # type: ignore[misc]
    """BERT's pooler and the linear layer behind it; RoBERTa's head has both in one."""

    def __init__(self, pooler: torch.nn.Module, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.pooler, self.classifier = pooler, classifier

    def forward(self, states: Tensor) -> Tensor:
        return self.classifier(self.pooler(states))


def _bert_head(model: Any) -> _BertHead:  # noqa: ANN401 - a transformers model
    return _BertHead(model.bert.pooler, model.classifier)
