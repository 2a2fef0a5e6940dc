# SPDX-License-Identifier: Apache-2.0
"""From a layerwise reranker's checkpoint to its decoder on a device. Code of the checkpoint is never run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from flagtriton.protocol.settings import LayerwiseSettings
from flagtriton_server.checkpoint.files import check_files
from flagtriton_server.engines.base import Precision
from flagtriton_server.engines.finite import check_answers, check_loaded
from flagtriton_server.layerwise.decoder import LayerHeads, LayerwiseDecoder
from flagtriton_server.layerwise.spec import LayerwiseSpec
from flagtriton_server.loading.adapters import merge_adapter
from flagtriton_server.loading.encoder import check_positions, check_weights, choose_precision
from flagtriton_server.loading.placement import check_fit, loading_arguments, weights_bytes
from flagtriton_server.loading.precision import compute_in_full

__all__ = ["LoadedDecoder", "load_decoder", "load_layer_heads", "read_spec"]


@dataclass(frozen=True)
class LoadedDecoder:
    """A layerwise reranker that is ready to run.

    Attributes:
        max_shared_length: most tokens of a text that may share a prefix; the prefix has no token that is compressed.
        on_forward_pass: called for every forward pass with its tokens, and the places that it computes.
    """

    module: LayerwiseDecoder
    spec: LayerwiseSpec
    device: torch.device
    precision: Precision
    max_shared_length: int
    on_forward_pass: Callable[[int, int], None] = lambda tokens, places: None


def read_spec(checkpoint: str, revision: str | None, model_class: str) -> LayerwiseSpec:
    """Return the architecture of a checkpoint, given as a local folder or hub name.

    Raises:
        OSError: the checkpoint cannot be found or has no `config.json`.
        ValueError: it is no checkpoint of this model class.
    """
    config, _ = PretrainedConfig.get_config_dict(checkpoint, revision=revision or "main")
    try:
        return LayerwiseSpec.of(config, model_class)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error


@torch.inference_mode()
def load_decoder(settings: LayerwiseSettings, device: torch.device) -> LoadedDecoder:
    """Return the checkpoint's decoder, without its heads.

    Raises:
        OSError: the checkpoint cannot be found or lacks a file.
        ValueError: it has another architecture; it lacks weights; they do not fit the device; it has fewer positions
            than the deployment's `max_length`; or its results are not finite in the deployment's precision.
    """
    from flagtriton_server.layerwise.encode import trial_vectors  # imported here, because it imports this module

    check_files(settings.checkpoint)
    spec = read_spec(settings.checkpoint, settings.revision, settings.model_class)
    check_positions(settings.checkpoint, settings.max_length, {"max_position_embeddings": spec.positions})
    precision = choose_precision(settings.precision, device)
    if precision.computed == torch.float32:
        compute_in_full()
    with torch.device("meta"):
        needed = weights_bytes(LayerwiseDecoder(PretrainedConfig(), spec), precision.computed)
    check_fit(settings.checkpoint, needed, precision.name, [device])
    module, report = LayerwiseDecoder.from_pretrained(
        settings.checkpoint,
        spec,
        config=PretrainedConfig(),
        dtype=precision.stored,
        output_loading_info=True,
        revision=settings.revision or "main",
        **loading_arguments([device]),
    )
    check_weights(settings.checkpoint, report["missing_keys"], report["unexpected_keys"])
    if settings.peft is not None:
        module = merge_adapter(module, settings.peft)
    check_loaded(settings.checkpoint, module.named_parameters(), precision.name)
    module = module.to(device=device, dtype=precision.computed).eval()
    within = settings.max_length if spec.window is None else min(settings.max_length, spec.window)
    decoder = LoadedDecoder(module, spec, device, precision, within)
    check_answers(settings.checkpoint, trial_vectors(decoder), precision.name)
    return decoder


def load_layer_heads(checkpoint: str, revision: str | None, spec: LayerwiseSpec, dtype: torch.dtype) -> torch.Tensor:
    """Return `[H, D]`, one row of weights for each layer that has a head, in the order of the layers.

    Raises:
        OSError: the checkpoint cannot be found.
        ValueError: it lacks a head.
    """
    heads, report = LayerHeads.from_pretrained(
        checkpoint, spec, config=PretrainedConfig(), dtype=dtype, output_loading_info=True, revision=revision or "main"
    )
    check_weights(checkpoint, report["missing_keys"], report["unexpected_keys"])
    return torch.cat([head.linear_head.weight for head in heads.lm_head]).detach().clone()
