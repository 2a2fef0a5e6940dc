# SPDX-License-Identifier: Apache-2.0
"""The one place where the precision `auto` is resolved. Imports no torch: `flagtriton list` resolves it, too."""

from __future__ import annotations

__all__ = ["best_cpu_precision", "resolve_precision"]


def best_cpu_precision() -> str:
    """Return what `auto` is on a processor: `bf16` where it computes in that (AMX or AVX512-BF16), else `fp32`."""
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:  # noqa: PTH123 - a device file, read once
        flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    return "bf16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "fp32"


def resolve_precision(precision: str, device: str, *, decoder: bool = False) -> str:
    """Return the precision that a setting stands for on a device.

    Args:
        precision: `fp32`, `fp16`, `bf16`, which are returned as they are, or `auto`.
        device: `cpu`, or a name that begins with `gpu` or `cuda`. On a processor, this machine's decides.
        decoder: hidden states of decoders exceed the range of fp16, so that `auto` is bf16 on a GPU.
    """
    if precision != "auto":
        return precision
    if device.startswith(("gpu", "cuda")):
        return "bf16" if decoder else "fp16"
    return best_cpu_precision()
