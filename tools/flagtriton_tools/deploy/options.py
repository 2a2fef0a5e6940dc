# SPDX-License-Identifier: Apache-2.0
"""Input and output of a deployment's builder: the user's options, and folders of a repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

__all__ = ["AddOptions", "Model"]


_DEFAULT_ROWS = 256


@dataclass(frozen=True)
class AddOptions:
    """Options of the user. None leaves the value to the facts of the checkpoint."""

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
        """Maximum number of rows of one request, for every step of the deployment."""
        return self.max_batch_size or _DEFAULT_ROWS


@dataclass(frozen=True)
class Model:
    """One folder of a model repository.

    Attributes:
        step: module of `flagtriton_server.steps` that the folder runs; None for an ensemble.
        copies: source of each file to copy into the version's folder, by its path in that folder.
    """

    name: str
    config: ModelConfig
    step: str | None = None
    copies: Mapping[str, Path] = field(default_factory=dict)
