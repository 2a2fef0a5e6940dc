# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench --prefixes`: measures the gain of computing the common prefix of several texts once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from flagtriton.protocol.settings import EncoderSettings
from flagtriton.protocol.tensors import NO_TOKEN
from flagtriton_server.backend.process_tuning import keep_freed_memory
from flagtriton_server.engines.base import LoadedEncoder
from flagtriton_server.engines.encode import encode_pooled
from flagtriton_server.engines.pooling import last_token_pool
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.loading.placement import limit_threads
from flagtriton_tools.bench.peers.callers import seconds_of
from flagtriton_tools.errors import ToolError

__all__ = ["Case", "PrefixResult", "measure_prefixes", "prefix_table"]


@dataclass(frozen=True)
class Case:
    """Texts with one common prefix. `own` is the range of their tokens after it, with its end excluded."""

    prefix: int
    texts: int
    own: tuple[int, int]


CASES = (
    Case(1500, 64, (10, 40)),  # queries behind few-shot examples
    Case(300, 64, (10, 40)),
    Case(32, 64, (10, 40)),  # queries behind an instruction
    Case(32, 8, (10, 40)),
    Case(16, 2, (5, 15)),
    Case(32, 64, (60, 140)),  # longer texts behind an instruction
)


@dataclass(frozen=True)
class PrefixResult:
    """One case: seconds of the encoder without sharing and with it, one value for each round."""

    case: Case
    apart_s: list[float]
    shared_s: list[float]

    @property
    def ratio(self) -> float:
        """Speed-up by sharing, from the medians."""
        return statistics.median(self.apart_s) / statistics.median(self.shared_s)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {**asdict(self), "ratio": self.ratio}


def measure_prefixes(
    settings: EncoderSettings,
    device: torch.device,
    *,
    rounds: int,
    report: Callable[[str], None],
    cases: Sequence[Case] = CASES,
) -> list[PrefixResult]:
    """Return the result of every case for the encoder alone, in this process. Both ways take turns.

    Raises:
        ToolError: texts of this checkpoint cannot share a prefix.
    """
    keep_freed_memory()
    limit_threads(1)
    encoder = load_encoder(settings, device)
    if not encoder.max_shared_length:
        raise ToolError(f"{settings.checkpoint} is no decoder whose texts can share a prefix")
    results = []
    for case in cases:
        input_ids = _texts(case, encoder.vocab_size)
        ways = {True: encoder, False: replace(encoder, max_shared_length=0)}
        run = partial(_run, input_ids, settings.token_budget)
        times: dict[bool, list[float]] = {True: [], False: []}
        if case.prefix * case.texts < settings.token_budget:  # build kernels first; in longer passes it hardly counts
            for way in ways.values():
                run(way)
        for _ in range(rounds):
            for shared, way in ways.items():
                times[shared].append(seconds_of(run, way))
        results.append(PrefixResult(case, times[False], times[True]))
        report(f"{case.texts} texts behind {case.prefix} tokens: {results[-1].ratio:.1f} times as fast")
    return results


def prefix_table(results: Sequence[PrefixResult]) -> Table:
    """Return the results as a table."""
    table = Table("prefix", "texts", "own tokens", "apart", "shared", "times as fast")
    for result in results:
        case = result.case
        apart, shared = (f"{statistics.median(s) * 1e3:.0f} ms" for s in (result.apart_s, result.shared_s))
        low, high = case.own
        table.add_row(str(case.prefix), str(case.texts), f"{low} to {high - 1}", apart, shared, f"{result.ratio:.1f}")
    return table


def _run(input_ids: NDArray[np.int32], token_budget: int, encoder: LoadedEncoder) -> None:
    encode_pooled(encoder, [input_ids], token_budget, last_token_pool)


def _texts(case: Case, vocab_size: int) -> NDArray[np.int32]:
    """Return `[B, T]` random token ids that begin with the same prefix."""
    random = np.random.default_rng(0)
    lengths = random.integers(*case.own, case.texts)
    input_ids = np.full((case.texts, case.prefix + int(lengths.max())), NO_TOKEN, dtype=np.int32)
    input_ids[:, : case.prefix] = random.integers(0, vocab_size, case.prefix)
    for row, length in zip(input_ids, lengths, strict=True):
        row[case.prefix : case.prefix + length] = random.integers(0, vocab_size, length)
    return input_ids
