# SPDX-License-Identifier: Apache-2.0
"""Options of `flagtriton bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from flagtriton.protocol.model_classes import EmbedderModelClass
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.errors import ToolError
from flagtriton_tools.shapes import SHAPES
from flagtriton_tools.workload import Workload

__all__ = ["bench_command"]

_PEERS = ("flagembedding", "sentence-transformers", "infinity", "raw")


@click.command("bench")
@click.argument("checkpoint", required=False)
@click.option("--shape", type=click.Choice(list(SHAPES)), help="Random weights of a published shape.")
@click.option("--url", help="A running server, grpc://… or http://…; needs --model.  [default: one is started]")
@click.option("--model", help="The deployment to measure at --url.")
@click.option("--protocol", type=click.Choice(["grpc", "http"]), default="grpc", show_default=True)
@click.option("--peer", "peers", multiple=True, type=click.Choice(_PEERS), help="May be repeated; raw is the limit.")
@click.option("--peers-folder", type=click.Path(path_type=Path), default=".peers", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "fp16", "bf16"]), default="auto", show_default=True)
@click.option("--pooling", "pooling_method", type=click.Choice(["cls", "mean", "last_token"]))
@click.option("--device", default="cpu", show_default=True, help="cpu, or GPUs by number: gpu:0,1")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True)
@click.option("--token-budget", type=click.IntRange(16), help="Of one pass.  [default: 4096, or 65536 on a GPU]")
@click.option("--tokenizer-instances", type=click.IntRange(1), default=1, show_default=True)
@click.option("--pool-in-encoder", is_flag=True)
@click.option("--texts", "count", type=click.IntRange(32), default=2000, show_default=True)
@click.option("--median-words", type=click.FloatRange(1), default=42.0, show_default=True)
@click.option("--spread", type=click.FloatRange(0), default=0.75, show_default=True, help="Of the log of the lengths.")
@click.option("--least-words", type=click.IntRange(1), default=5, show_default=True)
@click.option("--most-words", type=click.IntRange(1), default=200, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--callers", default="1,8,32,128", show_default=True, help="Concurrent calls of one text; '' for none.")
@click.option("--soak", type=click.IntRange(1), help="So many texts in one call; watches pace and memory.")
@click.option("--growth", is_flag=True, help="How cost grows with number and length of texts.")
@click.option("--hybrid", is_flag=True, help="BGE-M3's three outputs and its scores of pairs; peer: flagembedding.")
@click.option("--rerank", is_flag=True, help="One query and --texts passages through a reranker; peer: flagembedding.")
@click.option("--peer-batch", type=click.IntRange(1), help="Of FlagEmbedding's reranker.  [default: its own, 128]")
@click.option("--prefixes", is_flag=True, help="What it is worth to a decoder that texts which begin alike share that.")
@click.option(
    "--example-words",
    type=click.IntRange(1),
    help="Texts are queries behind few-shot examples of so many words; peer: flagembedding.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("bench"), show_default=True)
def bench_command(checkpoint: str | None, callers: str, **chosen: Any) -> None:
    """Measure a deployment, beside other libraries on the same texts, in turns.

    CHECKPOINT is a folder or hub name; without it the all-MiniLM-L6-v2 of `make demo` is served. Tables and progress
    go to stderr, one JSON line to stdout, a picture to --out.

    \b
    flagtriton bench --peer flagembedding --peer sentence-transformers --peer raw
    flagtriton bench --shape bge-large --texts 500 --callers '' --peer raw
    flagtriton bench ./my-bge --precision fp32 --protocol http --peer infinity --callers 32
    flagtriton bench --soak 200000
    flagtriton bench --hybrid --shape m3-base --texts 500 --peer flagembedding
    flagtriton bench --rerank --shape bge-reranker-base --texts 200 --peer flagembedding
    flagtriton bench --shape icl-small --example-words 1000 --texts 64 --median-words 12 --peer flagembedding
    flagtriton bench --prefixes --shape icl-small
    flagtriton bench --url grpc://gpu-box:8001 --model bge-m3 BAAI/bge-m3
    """
    try:
        from flagtriton_tools.bench.command import bench
        from flagtriton_tools.bench.options import BenchOptions
    except ImportError as error:
        raise ToolError(f"flagtriton bench needs {error.name}: pip install 'flagtriton[bench]'") from error
    try:
        many = tuple(int(number) for number in callers.split(",") if number.strip())
    except ValueError:
        many = (0,)
    if any(number < 1 for number in many):
        raise ToolError(f"--callers is {callers!r}; expected whole numbers of at least 1, such as 1,8,32")
    workload = Workload(
        **{name: chosen.pop(name) for name in ("count", "median_words", "spread", "least_words", "most_words", "seed")}
    )
    if workload.least_words > workload.most_words:
        raise ToolError(f"--least-words {workload.least_words} is more than --most-words {workload.most_words}")
    if chosen["hybrid"] and set(chosen["peers"]) - {"flagembedding"}:
        raise ToolError("--hybrid: flagembedding is the one peer that has BGE-M3's three outputs")
    if chosen["rerank"] and set(chosen["peers"]) - {"flagembedding"}:
        raise ToolError("--rerank: flagembedding is the one peer that has rerankers")
    if chosen["example_words"] and set(chosen["peers"]) - {"flagembedding"}:
        raise ToolError("--example-words: flagembedding is the one peer that takes few-shot examples")
    added = ("precision", "pooling_method", "device", "instances", "token_budget", "tokenizer_instances")
    add = AddOptions(
        name="bench",
        task="rerank" if chosen["rerank"] else None,
        model_class=EmbedderModelClass.DECODER_ONLY_ICL.value if chosen["example_words"] else None,
        pool_in_encoder=chosen.pop("pool_in_encoder"),
        **{name: chosen.pop(name) for name in added},
    )
    options = BenchOptions(add, workload, checkpoint=checkpoint, callers=many, **chosen)
    bench(options, Console(stderr=True, highlight=False), click.echo)
