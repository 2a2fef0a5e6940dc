# SPDX-License-Identifier: Apache-2.0
"""Layerwise rerankers on CUDA: what leaves the network there is what leaves it on a processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.settings import LayerwiseSettings
from flagtriton_server.layerwise.encode import LayerwiseRequest, encode_layers
from flagtriton_server.layerwise.loading import load_decoder
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

MAKERS = {"decoder-only-layerwise": make_layerwise, "decoder-only-lightweight": make_lightweight}


def vectors(checkpoint: Path, model_class: str, device: str, precision: str, options: RerankOptions) -> torch.Tensor:
    """Return `[P, K, D]` float32 of six rows that begin with one query."""
    decoder = load_decoder(LayerwiseSettings(str(checkpoint), model_class, 512, 4096, precision), torch.device(device))
    random = np.random.default_rng(0)
    input_ids = random.integers(4, 250, (6, 90)).astype(np.int32)
    input_ids[:, :20] = input_ids[0, :20]
    starts, ends = np.full((6, 1), 20, dtype=np.int32), random.integers(20, 80, (6, 1)).astype(np.int32)
    request = LayerwiseRequest.of(decoder.spec, input_ids, starts, ends, options)
    return encode_layers(decoder, [request], 4096)[0].float()


@pytest.mark.parametrize(
    "options", [RerankOptions(), RerankOptions(cutoff_layers=(3, 6), compress_ratio=2, compress_layers=(2,))]
)
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.99)])
@pytest.mark.parametrize("model_class", MAKERS)
def test_vectors_are_those_of_a_processor(
    model_class: str, precision: str, least: float, options: RerankOptions, tmp_path: Path
) -> None:
    checkpoint = MAKERS[model_class](tmp_path / "tiny")
    expected = vectors(checkpoint, model_class, "cpu", "fp32", options)
    found = vectors(checkpoint, model_class, "cuda", precision, options)
    assert functional.cosine_similarity(found, expected, dim=-1).min() >= least
