# SPDX-License-Identifier: Apache-2.0
"""A checkpoint to a module on its device, in its precision."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from flagtriton_server.positions import position_capacity
from flagtriton_server.settings import EncoderSettings

__all__ = ["LoadedEncoder", "Precision", "choose_precision", "load_encoder", "share_cores"]


@dataclass(frozen=True)
class Precision:
    """The dtypes of one deployment.

    Attributes:
        name: `fp32`, `fp16` or `bf16`.
        stored: what the weights are rounded to when they are read.
        computed: what they are then computed in.
    """

    name: str
    stored: torch.dtype
    computed: torch.dtype


@dataclass(frozen=True)
class LoadedEncoder:
    """A module ready to run, and what a caller must know of it.

    Attributes:
        module: called with `input_ids` and `attention_mask`, `[M, T]` int64 each, on `device`.
        vocab_size: token ids are below it.
        pad_token_id: what rows are filled up with.
        hidden_size: D.
    """

    module: Any
    device: torch.device
    precision: Precision
    vocab_size: int
    pad_token_id: int
    hidden_size: int


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return what `--precision NAME` means on a device.

    `auto` is fp16 on CUDA; on a CPU it is bf16 where the processor computes in it (AMX or AVX512-BF16), else fp32.
    fp16 on a CPU rounds the weights and computes in fp32, as FlagEmbedding does.

    Raises:
        ValueError: another name.
    """
    if name == "auto":
        name = "fp16" if device.type == "cuda" else _best_cpu_precision()
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise ValueError(f"precision is {name!r}; expected auto, {', '.join(dtypes)}")
    computed = torch.float32 if name == "fp16" and device.type == "cpu" else dtypes[name]
    return Precision(name, dtypes[name], computed)


def load_encoder(settings: EncoderSettings, device: torch.device) -> LoadedEncoder:
    """Return the checkpoint's encoder, without a head.

    Raises:
        OSError: the checkpoint is not there or lacks a file.
        ValueError: its configuration is missing or of no known architecture, it lacks weights, or has fewer
            positions than the deployment's `max_length`.
    """
    from transformers import AutoConfig, AutoModel

    source = {"revision": settings.revision or "main", "trust_remote_code": settings.trust_remote_code}
    config = AutoConfig.from_pretrained(settings.checkpoint, **source)
    _check_positions(settings, config.to_dict())
    precision = choose_precision(settings.precision, device)
    module, report = AutoModel.from_pretrained(
        settings.checkpoint, config=config, dtype=precision.stored, output_loading_info=True, **source
    )
    _check_weights(settings.checkpoint, report["missing_keys"])
    if not settings.trust_remote_code and getattr(module, "pooler", None) is not None:
        module.pooler = None  # BERT's tanh layer over CLS, which no embedder reads
    module = module.to(device=device, dtype=precision.computed).eval()
    pad_token_id = config.pad_token_id if config.pad_token_id is not None else 0
    return LoadedEncoder(module, device, precision, config.vocab_size, pad_token_id, config.hidden_size)


def share_cores(instances: int) -> int:
    """Give this process its share of the processor's cores; return how many threads that is."""
    threads = max(1, len(os.sched_getaffinity(0)) // instances)
    torch.set_num_threads(threads)
    return threads


def _check_positions(settings: EncoderSettings, config: dict[str, Any]) -> None:
    capacity = position_capacity(config)
    if capacity is not None and settings.max_length > capacity:
        raise ValueError(
            f"{settings.checkpoint} has positions for {capacity} tokens, but the deployment's max_length is "
            f"{settings.max_length}; add it again with --force --max-length {capacity}"
        )


def _check_weights(checkpoint: str, missing: Iterable[str]) -> None:
    """Refuse a checkpoint whose missing weights transformers has made up at random."""
    lacking = sorted(name for name in missing if not name.startswith("pooler."))
    if lacking:
        raise ValueError(f"{checkpoint} lacks {len(lacking)} weights of its architecture, {lacking[0]} the first")


def _best_cpu_precision() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:  # noqa: PTH123 - a device file, read once
        flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    return "bf16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "fp32"
