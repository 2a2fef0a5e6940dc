# SPDX-License-Identifier: Apache-2.0
"""The steps of one embedder one behind the other, as its ensemble chains them, with a stand-in for Triton's module."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.parameters import read_parameters
from flagtriton.protocol.settings import EncoderSettings, PoolerSettings, TokenizerSettings
from flagtriton.protocol.tensors import DENSE_VECS, TEXT
from flagtriton.protocol.text import text_tensor
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.deploy.pbtxt import string_parameters
from tests.support.steps.fake_backend import Request, responses_of, started

__all__ = ["StepChain"]

SETTINGS: dict[str, Any] = {"tokenizer": TokenizerSettings, "encoder": EncoderSettings, "pooler": PoolerSettings}


class StepChain:
    """One deployment in this process.

    Args:
        steps: the modules of the three steps.
        checkpoint: what is added.
        **options: `AddOptions`, in fp32 unless they say otherwise.
    """

    def __init__(self, steps: SimpleNamespace, checkpoint: Path, **options: Any) -> None:
        added = AddOptions(**{"name": "tiny", "precision": "fp32", **options})
        self.ensemble, *models = build(inspect_checkpoint(str(checkpoint)), added)
        self._steps = []
        for model in models:
            settings = read_parameters(SETTINGS[str(model.step)], string_parameters(model.config))
            inputs = [tensor.name for tensor in model.config.input]
            self._steps.append((started(getattr(steps, str(model.step)), settings), inputs))

    @property
    def parameters(self) -> dict[str, str]:
        """What the public ensemble says of itself."""
        return string_parameters(self.ensemble.config)

    def answer(self, texts: list[str], **options: Any) -> dict[str, NDArray[Any]]:
        """Return the tensors of all steps; a step's error is raised."""
        tensors: dict[str, NDArray[Any]] = {TEXT.name: text_tensor(texts)}
        for step, inputs in self._steps:
            request = Request({name: tensors[name] for name in inputs}, json.dumps(options))
            (response,) = responses_of(step, request)
            if response.error is not None:
                raise response.error
            tensors |= response.tensors
        return tensors

    def encode(self, texts: list[str], **options: Any) -> NDArray[np.float32]:
        """Return `[B, D]`."""
        vectors: NDArray[np.float32] = self.answer(texts, **options)[DENSE_VECS.name]
        return vectors
