# SPDX-License-Identifier: Apache-2.0
"""`FlagLLMReranker`: rerankers that prompt a language model with each pair (bge-reranker-v2-gemma)."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from flagtriton.checkpoints import checkpoint_name
from flagtriton.errors import DeploymentMismatchError
from flagtriton.protocol.model_classes import PASSAGE_INSTRUCTION, QUERY_INSTRUCTION
from flagtriton.protocol.options.rerank import (
    RerankOptions,
)
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.rerankers.base import AbsReranker, Pairs, Scores
from flagtriton.types import DeviceSpec, RerankerModelClass

__all__ = ["FlagLLMReranker"]

_NO_EFFECT = ("use_dataloader", "num_workers")
"""Arguments of calls that change how FlagEmbedding reads its input, and no result."""


class FlagLLMReranker(AbsReranker):
    """A decoder-only reranker whose score is the logit of "Yes" (bge-reranker-v2-gemma).

    `AbsReranker` describes the other arguments. `max_length` is that of a passage; a pair may have more tokens by the
    length of the prompt.

    Args:
        peft_path: the adapter that is merged into the deployment's weights; None takes the deployment's.
        use_bf16: compared with the deployment's precision.
        query_instruction_for_rerank: put before queries; the model was trained with "A: ".
        passage_instruction_for_rerank: put before passages; the model was trained with "B: ".
        cache_dir: no effect, as the server loads the weights.
        trust_remote_code: compared with the deployment's.
        prompt: instruction behind each pair; None is the one that the model was trained with. A call may override it.

    Raises:
        DeploymentMismatchError: the deployment has another adapter than `peft_path`; and as `AbsReranker`.
    """

    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (RerankerModelClass.DECODER_ONLY_BASE.value,)
    OPTIONS: ClassVar[tuple[str, ...]] = ("prompt",)

    def __init__(
        self,
        model_name_or_path: str,
        peft_path: str | None = None,
        use_fp16: bool = False,
        use_bf16: bool = False,
        query_instruction_for_rerank: str | None = QUERY_INSTRUCTION,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = PASSAGE_INSTRUCTION,
        passage_instruction_format: str = "{}{}",
        cache_dir: str | None = None,
        trust_remote_code: bool | None = False,
        devices: DeviceSpec = None,
        prompt: str | None = None,
        batch_size: int = 128,
        query_max_length: int | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model_name_or_path,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_rerank=query_instruction_for_rerank,
            query_instruction_format=query_instruction_format,
            passage_instruction_for_rerank=passage_instruction_for_rerank,
            passage_instruction_format=passage_instruction_format,
            cache_dir=cache_dir,
            trust_remote_code=trust_remote_code,
            devices=devices,
            batch_size=batch_size,
            query_max_length=query_max_length,
            max_length=max_length,
            normalize=normalize,
            **kwargs,
        )
        self.peft_path, self.prompt = peft_path, prompt
        self._refuse_another_adapter()

    def compute_score_single_gpu(  # type: ignore[override]
        self,
        sentence_pairs: Pairs,
        batch_size: int | None = None,
        query_max_length: int | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        use_dataloader: bool = False,
        num_workers: int | None = None,
        device: str | None = None,
        **kwargs: Any,
    ) -> Scores:
        """Return the scores of pairs without instructions.

        `device`, `use_dataloader` and `num_workers` have no effect.
        """
        return super().compute_score_single_gpu(
            sentence_pairs, batch_size, query_max_length, max_length, normalize, prompt=prompt, **kwargs
        )

    def _scores(self, pairs: list[tuple[str, str]], arguments: dict[str, Any]) -> Scores:
        for name in _NO_EFFECT:
            arguments.pop(name, None)
        return super()._scores(pairs, arguments)

    def _options(self, named: dict[str, Any]) -> RerankOptions:
        # The texts have their instructions already, so the server must add none.
        return super()._options({**named, "query_instruction": "", "passage_instruction": ""})

    def _refuse_another_adapter(self) -> None:
        peft_path, served = self.peft_path, self.served.deployment.peft
        if peft_path is None:
            return
        names = {checkpoint_name(peft_path), checkpoint_name(os.path.realpath(peft_path))}  # of a link and its target
        if served is None or checkpoint_name(served) not in names:
            self.close()
            again = f"flagtriton add {self.served.deployment.checkpoint} --task rerank --repository REPOSITORY --force"
            raise DeploymentMismatchError(
                f"peft_path is {peft_path!r}, but {self.served.name} is served with {served or 'no adapter'}; "
                f"deploy it so: {again} --peft {peft_path}"
            )
