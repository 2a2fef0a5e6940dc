# SPDX-License-Identifier: Apache-2.0
"""The heads of rerankers that score one layer: a classification head, or the logit of "Yes".

Only the weights that a score needs are kept: of an LLM's vocabulary, the row for "Yes".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.settings import RerankerHeadSettings
from flagtriton_server.engines.base import Precision
from flagtriton_server.engines.finite import check_loaded
from flagtriton_server.loading.adapters import adapter_heads
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer

__all__ = ["RerankerHead", "classification_head", "vocabulary_head"]

RerankerHead: TypeAlias = Callable[[Tensor, RerankOptions], Tensor]
"""Takes vectors `[P, K, D]` of pairs at K layers, and their request's options; returns logits `[P, K]`, float32.

K is 1 except for layerwise rerankers."""

_ANSWER = "Yes"


def classification_head(settings: RerankerHeadSettings, precision: Precision, device: torch.device) -> RerankerHead:
    """Return a classification head over the first token.

    The checkpoint's own class is loaded without its layers. So transformers reads the head, and little else. Embeddings
    stay mapped from their file and are never read.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(settings.checkpoint, revision=settings.revision or "main")
    if config.num_labels != 1:
        raise ValueError(f"{settings.checkpoint} has a head for {config.num_labels} labels; a reranker has one")
    model = _without_layers(AutoModelForSequenceClassification, settings, config, precision.stored)
    head = _BertHead(model.bert.pooler, model.classifier) if hasattr(model, "bert") else model.classifier
    if isinstance(head, nn.Linear):  # only the end of this architecture's head
        raise ValueError(
            f"{settings.checkpoint} is a {config.model_type}, whose head is run with the whole model; add it from a "
            "local folder, where flagtriton add can see that"
        )
    check_loaded(settings.checkpoint, head.named_parameters(), precision.name)
    head = head.to(device=device, dtype=torch.float32)

    def score(states: Tensor, _: RerankOptions) -> Tensor:
        return head(states.to(device=device, dtype=torch.float32))  # the head reads the first row of [P, 1, D]

    return score


class _BertHead(nn.Module):
    """BERT's pooler and the linear layer after it; RoBERTa's head contains both."""

    def __init__(self, pooler: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.pooler, self.classifier = pooler, classifier

    def forward(self, states: Tensor) -> Tensor:
        return self.classifier(self.pooler(states))


def vocabulary_head(settings: RerankerHeadSettings, precision: Precision, device: torch.device) -> RerankerHead:
    """Return a head that computes the logit of "Yes" as the next token.

    The checkpoint's own class computes the logit, from its output layer on. So every change that the class makes to
    logits is kept; Gemma-2 caps them, for example. All earlier layers are removed, and all rows of the output layer
    except one.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(settings.checkpoint, revision=settings.revision or "main")
    model = _without_layers(AutoModelForCausalLM, settings, config, "auto")  # unrounded, so that its file stays mapped
    model.set_output_embeddings(_one_row(model.get_output_embeddings(), _answer_id(settings), settings))
    setattr(model, model.base_model_prefix, _PassedThrough())
    model = model.to(precision.stored)
    check_loaded(settings.checkpoint, model.named_parameters(), precision.name)
    model = model.to(device=device, dtype=torch.float32)

    def score(states: Tensor, _: RerankOptions) -> Tensor:
        return model(inputs_embeds=states.to(device=device, dtype=torch.float32)).logits.squeeze(-1)  # of [P, 1, 1]

    return score


class _PassedThrough(nn.Module):
    """An identity in place of a model's layers, whose work is already done."""

    def forward(self, inputs_embeds: Tensor, **_: object) -> Any:  # noqa: ANN401 - transformers' own
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)


def _one_row(output: nn.Linear, row: int, settings: RerankerHeadSettings) -> nn.Linear:
    weight = output.weight
    for name, tensor in adapter_heads(settings.peft).items():
        if name != "lm_head.weight":
            raise ValueError(f"the adapter {settings.peft} has {name}; of a head it may bring lm_head.weight alone")
        weight = tensor
    linear = nn.Linear(weight.shape[1], 1, bias=output.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight[row : row + 1].clone(), requires_grad=False)
    if output.bias is not None:
        linear.bias = nn.Parameter(output.bias[row : row + 1].clone(), requires_grad=False)
    return linear


def _answer_id(settings: RerankerHeadSettings) -> int:
    """Return the id of the first token of "Yes"."""
    tokenizer = TextTokenizer.from_checkpoint(settings.checkpoint, settings.revision, trust_remote_code=False)
    (ids,) = tokenizer.bare_ids([_ANSWER])
    if not ids or tokenizer.unk_id in ids:
        raise ValueError(
            f'the tokenizer of {settings.checkpoint} has no token for "{_ANSWER}", whose logit is an LLM reranker\'s '
            "score; is it the checkpoint's own?"
        )
    return ids[0]


def _without_layers(auto_class: Any, settings: RerankerHeadSettings, config: Any, dtype: Any) -> Any:  # noqa: ANN401
    config.num_hidden_layers = 0
    model, report = auto_class.from_pretrained(
        settings.checkpoint,
        config=config,
        dtype=dtype,
        output_loading_info=True,
        revision=settings.revision or "main",
    )
    if report["missing_keys"]:
        raise ValueError(f"{settings.checkpoint} lacks {min(report['missing_keys'])}; it is no reranker of this class")
    return model.eval()
