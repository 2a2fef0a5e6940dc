# SPDX-License-Identifier: Apache-2.0
"""A checkpoint to a module on its device, in its precision, on the fastest path that gives the same answers."""

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
"""Batches longer than this take so long by themselves that their kernels can be built when they first come."""

_LOG = logging.getLogger(__name__)


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return what `--precision NAME` means on a device.

    `auto` is fp16 on CUDA; on a CPU it is bf16 where the processor computes in it (AMX or AVX512-BF16), else fp32.
    fp16 on a CPU rounds the weights and computes in fp32, as FlagEmbedding does.

    Raises:
        ValueError: another name.
    """
    name = resolve_precision(name, device.type)
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise ValueError(f"precision is {name!r}; expected auto, {', '.join(dtypes)}")
    computed = torch.float32 if name == "fp16" and device.type == "cpu" else dtypes[name]
    return Precision(name, dtypes[name], computed)


def encoder_precision(precision: str, device: str) -> Precision:
    """Return the precision of an encoder that runs elsewhere: on `cpu`, or on a `gpu`."""
    return choose_precision(precision, torch.device("cuda" if device == "gpu" else "cpu"))


@torch.inference_mode()
def load_encoder(settings: EncoderSettings, *devices: torch.device) -> LoadedEncoder:
    """Return the checkpoint's encoder, without a head.

    Texts go through it end to end where its architecture allows and a trial agrees with each text by itself.

    Args:
        settings: the deployment's.
        devices: one, or several that the weights are spread over; inputs and answers are on the first.

    Raises:
        OSError: the checkpoint is not there or lacks a file.
        ValueError: its configuration is missing or of no known architecture, its files are not whole, it lacks weights,
            they do not fit the devices, it has fewer positions than the deployment's `max_length`, or what it computes
            is not finite in the deployment's precision.
    """
    from transformers import AutoConfig

    file_finder(settings.checkpoint)  # raises where its folder has gone
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
    if not settings.pseudo_moe:  # whose class sends numbers in place of what is not finite
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
    """Take out of a checkpoint's configuration how it was once run, which is no part of the model."""
    config.use_cache = False  # a decoder would keep keys and values for tokens that never come
    config.return_dict, config.output_hidden_states, config.output_attentions = True, False, False
    config._attn_implementation = None  # transformers' own choice, not that of the machine it was trained on


def _padding(padded: LoadedEncoder, checkpoint: str) -> LoadedEncoder:
    """Return the encoder that pads texts only if it gives the same answers then."""
    if agree(trial_answers(padded), padded_answers(padded), padded.precision.computed):
        return padded
    _LOG.warning("%s: padding changes its answers, so only texts of one length go through it together", checkpoint)
    return replace(padded, pads=False)


def _sharing(
    packed: LoadedEncoder, expected: torch.Tensor, settings: EncoderSettings, config: PretrainedConfig
) -> LoadedEncoder:
    """Return the encoder that may compute a prefix once, if its texts see nothing behind a token and it agrees."""
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
        return  # code that comes with a checkpoint may not be made without its weights
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
        ignore_mismatched_sizes=True,  # they are refused below, by name
        revision=settings.revision or "main",
        trust_remote_code=settings.trust_remote_code,
        **loading_arguments(devices),
    )
    if getattr(module, "_hf_peft_config_loaded", False):  # transformers has found one beside a hub name's weights
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
    """Raise `ValueError` where weights have another shape, the second of each entry, than `config.json` says."""
    entries = sorted(mismatched)
    if entries:
        name, stored, expected = entries[0]
        raise ValueError(
            f"{checkpoint} has {name} of shape {list(stored)}, and by its config.json it has {list(expected)} "
            f"({len(entries)} such weights); download both again, or copy config.json from where the weights were made"
        )


def check_positions(checkpoint: str, max_length: int, config: dict[str, Any]) -> None:
    """Raise `ValueError` where a deployment takes more tokens than its checkpoint has positions for."""
    capacity = position_capacity(config)
    if capacity is not None and max_length > capacity:
        raise ValueError(
            f"{checkpoint} has positions for {capacity} tokens, but the deployment's max_length is {max_length}; "
            f"add it again with --force --max-length {capacity}"
        )


def check_weights(checkpoint: str, missing: Iterable[str], unexpected: Iterable[str] = ()) -> None:
    """Raise `ValueError` for a checkpoint whose missing weights transformers has made up at random.

    Args:
        checkpoint: for the message.
        missing: names of the architecture's that the checkpoint does not have.
        unexpected: names in the checkpoint that the architecture does not have.
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
