# SPDX-License-Identifier: Apache-2.0
"""Options of a benchmark, and the values that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flagtriton.protocol.deployment import Deployment
from flagtriton_tools.deploy.budgets import TOKEN_BUDGETS
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.workload import Workload, make_examples

__all__ = ["BenchOptions", "BenchTask"]


@dataclass(frozen=True)
class BenchOptions:
    """Subject and kind of a measurement.

    Attributes:
        checkpoint: folder or hub name; None is the MiniLM that `make demo` serves.
        shape: published shape with random weights, in place of a checkpoint.
        url: running server that serves the checkpoint as `model`; None starts one.
        protocol: `grpc` or `http`, for a server that the benchmark starts.
        peers: libraries and servers to compare with.
        soak: number of texts to embed in one call while pace and memory are sampled, in place of a comparison.
        growth: measure how the duration grows with number and length of texts, in place of a comparison.
        hybrid: measure BGE-M3's three outputs and its pair scores, in place of dense vectors.
        rerank: measure one query and its passages through a reranker.
        peer_batch: pairs in one batch of FlagEmbedding's reranker; None is its default.
        prefixes: measure the gain of shared prefixes for a decoder, in place of a comparison.
        example_words: total words of the few-shot examples before each text, which is then a query; None has none.
        out: folder for pictures, logs and generated checkpoints.
    """

    add: AddOptions
    workload: Workload
    checkpoint: str | None = None
    shape: str | None = None
    url: str | None = None
    model: str | None = None
    protocol: str = "grpc"
    peers: tuple[str, ...] = ()
    peers_folder: Path = Path(".peers")
    rounds: int = 3
    callers: tuple[int, ...] = (1, 8, 32, 128)
    soak: int | None = None
    growth: bool = False
    hybrid: bool = False
    rerank: bool = False
    peer_batch: int | None = None
    prefixes: bool = False
    example_words: int | None = None
    out: Path = Path("bench")


@dataclass(frozen=True)
class BenchTask:
    """Options of a benchmark with the deployment and the texts that follow from them.

    Attributes:
        checkpoint: folder or hub name.
        served: description of the deployment.
        texts: texts of the workload.
        console: output for tables and progress.
        results_to: called with one line of JSON.
    """

    options: BenchOptions
    checkpoint: str
    served: Deployment
    texts: list[str]
    console: Console
    results_to: Callable[[str], None]

    @property
    def examples(self) -> list[dict[str, str]] | None:
        """Few-shot examples before each text, or None."""
        words = self.options.example_words
        return None if words is None else make_examples(words)

    @property
    def device(self) -> str:
        """Device of the deployment, `cpu` or `gpu`."""
        return self.served.device.partition(":")[0]

    @property
    def token_budget(self) -> int:
        """Token budget of one forward pass."""
        return self.options.add.token_budget or TOKEN_BUDGETS[self.device]

    def report(self, line: str) -> None:
        """Show one line of progress."""
        self.console.print(line, markup=False, soft_wrap=True)
