# SPDX-License-Identifier: Apache-2.0
"""A tiny reranker with code of its own: BERT whose head reads the mean of all tokens, as no head of ours does."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.checkpoints.tiny import make_bert, make_reranker

__all__ = ["make_scoring_model"]

_CODE = """
import torch
from torch import nn
from transformers import BertConfig, BertModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertPreTrainedModel


class ScoringConfig(BertConfig):
    model_type = "scoring-bert"


class ScoringModel(BertPreTrainedModel):
    config_class = ScoringConfig

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, return_dict=True):
        states = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return SequenceClassifierOutput(logits=self.classifier((states * mask).sum(1) / mask.sum(1)))
"""


def make_scoring_model(folder: Path) -> Path:
    """Write the checkpoint; return its folder."""
    make_reranker(folder, make_bert)
    (folder / "scoring_model.py").write_text(_CODE, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "scoring-bert",
        "architectures": ["ScoringModel"],
        "auto_map": {
            "AutoConfig": "scoring_model.ScoringConfig",
            "AutoModelForSequenceClassification": "scoring_model.ScoringModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
