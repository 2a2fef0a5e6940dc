# SPDX-License-Identifier: Apache-2.0
"""What this machine's processor computes in. Imports no torch: `flagtriton list` asks, too."""

from __future__ import annotations

__all__ = ["best_cpu_precision"]


def best_cpu_precision() -> str:
    """Return what `auto` is on a processor: `bf16` where it computes in that (AMX or AVX512-BF16), else `fp32`."""
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:  # noqa: PTH123 - a device file, read once
        flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    return "bf16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "fp32"
