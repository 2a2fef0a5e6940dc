# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a module on its device, in its precision, on the fastest path with the same answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from flagtriton.protocol.architectures import architecture_of, attention_path, position_capacity
from flagtriton.protocol.deployment import resolve_precision
from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.checkpoint.files import check_files, two_sets_of_weights
from flagtriton_server.checkpoint.lookup import file_finder
from flagtriton_server.engines.base import LoadedEncoder, Precision
from flagtriton_server.engines.finite import check_answers, check_loaded
from flagtriton_server.engines.torch_packed.attention import ATTENTION_NAME, register_attention
from flagtriton_server.engines.torch_packed.fused_bert import fuse_bert_layers
from flagtriton_server.loading.adapters import merge_adapter
from flagtriton_server.loading.configuration_check import check_configuration
from flagtriton_server.loading.packing_check import agree, one_answer, padded_answers, trial_answers
from flagtriton_server.loading.placement import check_fit, loading_arguments, weights_bytes
from flagtriton_server.loading.precision import compute_in_full, with_exact_angles
from flagtriton_server.loading.reranker_module import ScoreAsHiddenState
from flagtriton_server.packing.prefix_sharing import MIN_PREFIX
from flagtriton_server.packing.ragged import packed_lengths

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = [
    "check_positions",
    "check_weights",
    "choose_precision",
    "encoder_precision",
    "load_encoder",
]

_MOST_KERNEL_TOKENS = 1_024
"""Tokens of the longest batch whose kernels are built at load.

A longer batch takes so long that its kernels can be built on first use.
"""

_LOG = logging.getLogger(__name__)


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision that `--precision NAME` selects on a device.

    `auto` is fp16 on CUDA. On a CPU it is bf16 if the processor computes in bf16 (AMX or AVX512-BF16), else fp32. fp16
    on a CPU rounds the weights and computes in fp32, as FlagEmbedding does.

    Raises:
        ValueError: the name is unknown.
    """
    name = resolve_precision(name, device.type)
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise ValueError(f"precision is {name!r}; expected auto, {', '.join(dtypes)}")
    computed = torch.float32 if name == "fp16" and device.type == "cpu" else dtypes[name]
    return Precision(name, dtypes[name], computed)


def encoder_precision(precision: str, device: str) -> Precision:
    """Return the precision of an encoder that runs in another step, on a `cpu` or a `gpu`."""
    return choose_precision(precision, torch.device("cuda" if device == "gpu" else "cpu"))


@torch.inference_mode()
def load_encoder(settings: EncoderSettings, *devices: torch.device) -> LoadedEncoder:
    """Return the encoder of a checkpoint, with a head only if the settings have `scores`.

    Texts go through it end to end if its architecture allows that, and packed trial texts get the same answers as each
    text alone.

    Args:
        settings: settings of the deployment.
        devices: one device, or several over which the weights are spread; inputs and answers are on the first.

    Raises:
        OSError: the checkpoint cannot be found or lacks a file.
        ValueError: its configuration is missing or of no known architecture; its files are not whole; it lacks weights;
            they do not fit the devices; it has fewer positions than the deployment's `max_length`; or its results are
            not finite in the deployment's precision.
    """
    from transformers import AutoConfig

    file_finder(settings.checkpoint)  # raises if its folder does not exist any more
    check_files(settings.checkpoint)
    source = {"revision": settings.revision or "main", "trust_remote_code": settings.trust_remote_code}
    config = AutoConfig.from_pretrained(settings.checkpoint, **source)
    if not settings.trust_remote_code:
        check_configuration(settings.checkpoint, config.to_dict(), settings.max_length)
    check_positions(settings.checkpoint, settings.max_length, config.to_dict())
    _set_up(config)
    device = devices[0]
    precision = choose_precision(settings.precision, device)
    if precision.computed == torch.float32:
        compute_in_full()
    _check_fit(settings, config, precision, devices)
    padded = LoadedEncoder(
        _load_module(settings, config, precision, devices),
        device,
        precision,
        config.vocab_size,
        config.pad_token_id if config.pad_token_id is not None else 0,
        1 if settings.scores else config.hidden_size,
        knows_types=getattr(config, "type_vocab_size", 1) > 1,
        scores=settings.scores,
    )
    if not settings.pseudo_moe:  # its class sends numbers in place of nan and infinities
        check_answers(settings.checkpoint, one_answer(padded), precision.name)
    architecture = architecture_of(config.model_type)
    if settings.scores or attention_path(config.model_type, settings.trust_remote_code) == "padded":
        return _padding(padded, settings.checkpoint)
    expected = trial_answers(padded)
    packed = replace(padded, packed=True, pad_has_position=not architecture.offset_positions)
    register_attention()
    packed.module.set_attn_implementation(ATTENTION_NAME)
    if precision.computed == torch.float32:
        with_exact_angles(packed.module)
    fused = architecture.fused and fuse_bert_layers(packed.module)
    if agree(expected, trial_answers(packed), precision.computed):
        packed = _sharing(packed, expected, settings, config)
        if fused and device.type == "cpu":
            packed.module.encoder.layer[0].build_kernels(
                packed_lengths(min(settings.token_budget, _MOST_KERNEL_TOKENS))
            )
        return packed
    _LOG.warning("%s: packed answers differ from padded ones, so texts are padded", settings.checkpoint)
    return _padding(replace(padded, module=_load_module(settings, config, precision, devices)), settings.checkpoint)


def _set_up(config: PretrainedConfig) -> None:
    """Remove the settings of earlier runs from a checkpoint's configuration; they are no part of the model."""
    config.use_cache = False  # a decoder would keep keys and values for tokens that never come
    config.return_dict, config.output_hidden_states, config.output_attentions = True, False, False
    config._attn_implementation = None  # the choice of transformers, not that of the training machine


def _padding(padded: LoadedEncoder, checkpoint: str) -> LoadedEncoder:
    """Return the encoder, which pads texts of several lengths only if padding does not change its answers."""
    if agree(trial_answers(padded), padded_answers(padded), padded.precision.computed):
        return padded
    _LOG.warning("%s: padding changes its answers, so only texts of one length go through it together", checkpoint)
    return replace(padded, pads=False)


def _sharing(
    packed: LoadedEncoder, expected: torch.Tensor, settings: EncoderSettings, config: PretrainedConfig
) -> LoadedEncoder:
    """Return an encoder that computes a shared prefix once if its attention is causal and its answers stay the same."""
    causal = [layer.is_causal for layer in packed.module.modules() if hasattr(layer, "is_causal")]
    window = getattr(config, "sliding_window", None)
    within = settings.max_length if window is None else min(settings.max_length, window)
    if not causal or not all(causal) or within <= MIN_PREFIX:
        return packed
    if agree(expected, trial_answers(packed, shared=True), packed.precision.computed):
        return replace(packed, max_shared_length=within)
    _LOG.warning("%s: texts that share a prefix get other answers, so none do", settings.checkpoint)
    return packed


def _check_fit(
    settings: EncoderSettings, config: PretrainedConfig, precision: Precision, devices: Sequence[torch.device]
) -> None:
    from transformers import AutoModel

    if settings.trust_remote_code:
        return  # a module from a checkpoint's code may need its weights to be built
    with torch.device("meta"):
        module = AutoModel.from_config(config)
    check_fit(settings.checkpoint, weights_bytes(module, precision.computed), precision.name, devices)


def _load_module(
    settings: EncoderSettings, config: PretrainedConfig, precision: Precision, devices: Sequence[torch.device]
) -> torch.nn.Module:
    from transformers import AutoModel, AutoModelForSequenceClassification

    module, report = (AutoModelForSequenceClassification if settings.scores else AutoModel).from_pretrained(
        settings.checkpoint,
        config=config,
        dtype=precision.stored,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are rejected below, by name
        revision=settings.revision or "main",
        trust_remote_code=settings.trust_remote_code,
        **loading_arguments(devices),
    )
    if getattr(module, "_hf_peft_config_loaded", False):  # transformers has found one next to a hub name's weights
        raise ValueError(two_sets_of_weights(settings.checkpoint, "it"))
    check_weights(settings.checkpoint, report["missing_keys"], report["unexpected_keys"])
    _check_shapes(settings.checkpoint, report["mismatched_keys"])
    if settings.scores:
        module = ScoreAsHiddenState(module, config.num_labels, settings.checkpoint)
    if settings.peft is not None:
        module = merge_adapter(module, settings.peft)
    if not settings.trust_remote_code and getattr(module, "pooler", None) is not None:
        module.pooler = torch.nn.Identity()  # in place of BERT's tanh layer over CLS, which no embedder reads
    if not settings.pseudo_moe or precision.stored == torch.float16:  # see load_encoder
        check_loaded(settings.checkpoint, module.named_parameters(), precision.name)
    return (module if len(devices) > 1 else module.to(device=devices[0], dtype=precision.computed)).eval()


def _check_shapes(checkpoint: str, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Raise `ValueError` if the shape of weights, the second part of an entry, is not that of `config.json`."""
    entries = sorted(mismatched)
    if entries:
        name, stored, expected = entries[0]
        raise ValueError(
            f"{checkpoint} has {name} of shape {list(stored)}, and by its config.json it has {list(expected)} "
            f"({len(entries)} such weights); download both again, or copy config.json from where the weights were made"
        )


def check_positions(checkpoint: str, max_length: int, config: dict[str, Any]) -> None:
    """Raise `ValueError` if a deployment accepts more tokens than its checkpoint has positions for."""
    capacity = position_capacity(config)
    if capacity is not None and max_length > capacity:
        raise ValueError(
            f"{checkpoint} has positions for {capacity} tokens, but the deployment's max_length is {max_length}; "
            f"add it again with --force --max-length {capacity}"
        )


def check_weights(checkpoint: str, missing: Iterable[str], unexpected: Iterable[str] = ()) -> None:
    """Raise `ValueError` for a checkpoint whose missing weights transformers has initialized at random.

    Args:
        checkpoint: name for the message.
        missing: names of weights of the architecture that the checkpoint does not have.
        unexpected: names of weights of the checkpoint that the architecture does not have.
    """
    lacking = sorted(name for name in missing if not name.startswith("pooler."))
    if not lacking:
        return
    others = sorted(unexpected)
    prefix = next((name.removesuffix(lacking[0]) for name in others if name.endswith(f".{lacking[0]}")), None)
    if prefix is not None:
        raise ValueError(
            f"{checkpoint} has its weights under names that begin with {prefix!r}, as a model inside another module "
            "has; save the inner model itself: model.module.save_pretrained(…)"
        )
    raise ValueError(
        f"{checkpoint} lacks {len(lacking)} weights of its architecture, {lacking[0]} the first"
        + (f"; it has {len(others)} that the architecture has not, {others[0]} the first" if others else "")
    )
