# SPDX-License-Identifier: Apache-2.0
"""What a benchmark is told, and what that comes to."""

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
    """What to measure.

    Attributes:
        checkpoint: a folder or hub name; None is the MiniLM that `make demo` serves.
        shape: a published shape with random weights, rather than a checkpoint.
        url: a running server that serves the checkpoint as `model`; None starts one.
        protocol: `grpc` or `http`, where a server is started.
        peers: libraries and servers to compare with.
        soak: embed so many texts in one call and watch pace and memory, rather than compare.
        growth: measure how cost grows with number and length of texts, rather than compare.
        hybrid: measure BGE-M3's three outputs and its scores of pairs, rather than dense vectors.
        rerank: measure one query and its passages through a reranker.
        peer_batch: pairs of one batch of FlagEmbedding's reranker; None is its default.
        prefixes: measure what shared prefixes are worth to a decoder, rather than compare.
        example_words: the texts are queries behind few-shot examples of so many words in all.
        out: where pictures, logs and made checkpoints go.
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
    """What the options come to.

    Attributes:
        checkpoint: a folder or hub name.
        served: what it is served as.
        texts: of the workload.
        console: for tables and progress.
        results_to: takes one line of JSON.
    """

    options: BenchOptions
    checkpoint: str
    served: Deployment
    texts: list[str]
    console: Console
    results_to: Callable[[str], None]

    @property
    def examples(self) -> list[dict[str, str]] | None:
        """The few-shot examples before each text; None where there are none."""
        words = self.options.example_words
        return None if words is None else make_examples(words)

    @property
    def device(self) -> str:
        """`cpu` or `gpu`."""
        return self.served.device.partition(":")[0]

    @property
    def token_budget(self) -> int:
        """Tokens of one forward pass."""
        return self.options.add.token_budget or TOKEN_BUDGETS[self.device]

    def report(self, line: str) -> None:
        """Show one line of progress."""
        self.console.print(line, markup=False, soft_wrap=True)
