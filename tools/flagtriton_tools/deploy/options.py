# SPDX-License-Identifier: Apache-2.0
"""What goes into a deployment and what comes out of it: the user's options, and folders of a repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

__all__ = ["AddOptions", "Model"]


_DEFAULT_ROWS = 256


@dataclass(frozen=True)
class AddOptions:
    """What the user said; None where the checkpoint's facts decide."""

    name: str | None = None
    task: str | None = None
    model_class: str | None = None
    pooling_method: str | None = None
    device: str = "cpu"
    instances: int = 1
    shard: bool = False
    precision: str = "auto"
    max_length: int | None = None
    max_batch_size: int | None = None
    token_budget: int | None = None
    queue_requests: int | None = None
    queue_tokens: int | None = None
    queue_timeout: float | None = None
    max_text_bytes: int = 1 << 20
    max_request_bytes: int = 16 << 20
    tokenizer_instances: int = 1
    pool_in_encoder: bool = False
    modules: bool = True
    prompts: bool | None = None
    colbert_dim: int | None = None
    colbert_dtype: str | None = None
    query_instruction: str | None = None
    query_instruction_format: str | None = None
    passage_instruction: str | None = None
    passage_instruction_format: str | None = None
    trust_remote_code: bool | None = None
    revision: str | None = None
    peft: str | None = None
    execution_env: str | None = None

    @property
    def rows(self) -> int:
        """Rows of one request at most, to every step of the deployment."""
        return self.max_batch_size or _DEFAULT_ROWS


@dataclass(frozen=True)
class Model:
    """One folder of a model repository.

    Attributes:
        step: the module of `flagtriton_server` it runs; None for an ensemble.
        copies: files that are to lie in the version's folder, by where, and where they come from.
    """

    name: str
    config: ModelConfig
    step: str | None = None
    copies: Mapping[str, Path] = field(default_factory=dict)
