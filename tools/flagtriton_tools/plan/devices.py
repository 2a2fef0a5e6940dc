# SPDX-License-Identifier: Apache-2.0
"""Peak rates of GPUs from their data sheets, and measured rates of servers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EFFICIENCY", "GPUS", "MEASURED"]


@dataclass(frozen=True)
class Gpu:
    """One GPU, from its vendor's data sheet.

    Attributes:
        flops: dense half-precision operations per second of its tensor cores.
        memory: size of its memory, bytes.
    """

    flops: float
    memory: float


GPUS: dict[str, Gpu] = {
    "b200": Gpu(2250e12, 192e9),
    "h200": Gpu(989e12, 141e9),
    "h100": Gpu(989e12, 80e9),
    "a100": Gpu(312e12, 80e9),
    "l40s": Gpu(362e12, 48e9),
    "l4": Gpu(121e12, 24e9),
    "t4": Gpu(65e12, 16e9),
}

EFFICIENCY = 0.35
"""Share of the peak rate that encoders reach, without a measurement: 0.3 to 0.5 for hidden sizes from 768 on."""


@dataclass(frozen=True)
class Measured:
    """Measured rate at which one server encodes in bulk.

    Attributes:
        tokens_per_s: tokens of all texts per second.
        source: document with the measurement.
    """

    tokens_per_s: float
    source: str


MEASURED: dict[tuple[str, str], Measured] = {
    ("minilm-l6", "cpu"): Measured(21_603, "docs/benchmarks.md, In bulk: 2 cores with AMX, bf16"),
    ("m3-base", "cpu"): Measured(4_150, "docs/benchmarks.md, BGE-M3: 2 cores with AMX, bf16, dense alone"),
    ("bge-m3", "cpu"): Measured(1_200, "docs/benchmarks.md, BGE-M3: 2 cores with AMX, bf16, dense alone"),
}
"""Measured rates by shape and device."""
