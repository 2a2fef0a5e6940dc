# SPDX-License-Identifier: Apache-2.0
"""Runs one library in a separate process.

JSON lines on stdin are requests, and JSON lines on stdout are replies. The script runs with any interpreter that
has the library. It imports flagtriton only for the kind `raw`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__: list[str] = []

BATCH_SIZES = (8, 16, 32, 64, 128)
SWEEP_TEXTS = 256


class FlagEmbedding:
    """FlagEmbedding as in its README, in float32 on a CPU, with its default batch size unless `batch_size` is given."""

    def __init__(self, options: dict[str, Any]) -> None:
        from FlagEmbedding import FlagICLModel, FlagLLMModel, FlagModel

        reference = FlagLLMModel if options["model_class"].startswith("decoder-only") else FlagModel
        more = {"batch_size": options.get("batch_size") or 256}
        if options["examples"] is not None:
            reference, more["examples_for_task"] = FlagICLModel, options["examples"]
        self.model = reference(**reference_arguments(options), **more)
        self.encode_texts = self.model.encode if options["examples"] is None else self.model.encode_queries

    def encode(self, texts: list[str]) -> None:
        self.encode_texts(texts, max_length=512)


class FlagEmbeddingM3:
    """FlagEmbedding's BGE-M3 as in its README, in float32 on a CPU, with its default batch size."""

    batch_size = 256

    def __init__(self, options: dict[str, Any]) -> None:
        from FlagEmbedding import BGEM3FlagModel

        self.model = BGEM3FlagModel(**reference_arguments(options), batch_size=self.batch_size)
        self.texts, self.pairs = options["texts"], options["pairs"]

    def encode(self, texts: list[str]) -> None:
        self.model.encode(texts)

    def run(self, task: str) -> None:
        if task == "one query":
            self.model.compute_score(self.pairs)
        else:
            self.model.encode(self.texts, return_sparse=True, return_colbert_vecs=True)


class FlagEmbeddingM3InSmallBatches(FlagEmbeddingM3):
    """The same with small batches, whose little padding suits a CPU."""

    batch_size = 16


class FlagEmbeddingReranker:
    """FlagEmbedding's reranker as in its README, in float32 on a CPU, with its default batch unless one is given."""

    def __init__(self, options: dict[str, Any]) -> None:
        from FlagEmbedding import FlagLLMReranker, FlagReranker

        reference = FlagLLMReranker if options["model_class"].startswith("decoder-only") else FlagReranker
        more = {"batch_size": options["batch_size"]} if options.get("batch_size") else {}
        arguments = reference_arguments(options)
        del arguments["pooling_method"]
        self.model = reference(**arguments, **more)
        self.pairs = options["pairs"]
        self.batch_size = options.get("batch_size")

    def encode(self, texts: list[str]) -> None:
        self.model.compute_score(self.pairs[: len(texts)])

    def run(self, task: str) -> None:
        self.model.compute_score(self.pairs)


class SentenceTransformers:
    """sentence-transformers with the batch size that is fastest on the first texts."""

    def __init__(self, options: dict[str, Any]) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(options["checkpoint"], device="cuda" if options["device"] == "gpu" else "cpu")
        self.batch_size = options.get("batch_size") or self._best(options["texts"][:SWEEP_TEXTS])

    def _best(self, texts: list[str]) -> int:
        return min(BATCH_SIZES, key=lambda size: seconds(lambda: self.model.encode(texts, batch_size=size)))

    def encode(self, texts: list[str]) -> None:
        self.model.encode(texts, batch_size=self.batch_size)


class Raw:
    """flagtriton's forward pass in a loop, without tokenizer and server: an upper limit for the speed of a server."""

    def __init__(self, options: dict[str, Any]) -> None:
        from flagtriton_server.backend.process_tuning import keep_freed_memory, limit_openmp_spinning

        limit_openmp_spinning()
        import torch

        from flagtriton.protocol.settings import EncoderSettings
        from flagtriton.protocol.tensors import INPUT_IDS
        from flagtriton_server.engines.encode import encode_pooled
        from flagtriton_server.engines.pooling import pooling_named
        from flagtriton_server.loading.encoder import load_encoder
        from flagtriton_server.loading.placement import limit_threads
        from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer

        keep_freed_memory()
        limit_threads(1)
        settings = EncoderSettings(options["checkpoint"], 512, options["token_budget"], precision=options["precision"])
        device = torch.device("cuda" if options["device"] == "gpu" else "cpu")
        self.pooling, self.run = pooling_named(options["pooling_method"]), encode_pooled
        self.encoder, self.budget = load_encoder(settings, device), settings.token_budget
        tokenizer = TextTokenizer.from_checkpoint(options["checkpoint"], None, False)

        def token_ids(texts: list[str]) -> Any:  # noqa: ANN401 - an array
            answers: list[Any] = tokenizer.encode([TextBatch(texts, 512)])
            return answers[0][INPUT_IDS]

        self.token_ids = token_ids
        self.known = {id(options["texts"]): token_ids(options["texts"])}

    def encode(self, texts: list[str]) -> None:
        ids = self.known.get(id(texts))
        self.run(self.encoder, [self.token_ids(texts) if ids is None else ids], self.budget, self.pooling)


CONTESTANTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "flagembedding": FlagEmbedding,
    "flagembedding-m3": FlagEmbeddingM3,
    "flagembedding-m3-small": FlagEmbeddingM3InSmallBatches,
    "flagembedding-reranker": FlagEmbeddingReranker,
    "sentence-transformers": SentenceTransformers,
    "raw": Raw,
}


def reference_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of FlagEmbedding's classes, with half precision on a GPU."""
    gpu = options["device"] == "gpu"
    return {
        "model_name_or_path": options["checkpoint"],
        "pooling_method": options["pooling_method"],
        "use_fp16": gpu,
        "devices": "cuda:0" if gpu else "cpu",
    }


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def main() -> None:
    """Load the model that the first line describes, then answer each further line with one line."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of the libraries goes to stderr, as stdout is for the replies
    options = json.loads(sys.stdin.readline())
    options["texts"] = json.loads(Path(options["texts"]).read_text(encoding="utf-8"))
    model = CONTESTANTS[options["kind"]](options)
    model.encode(options["texts"][:32])
    print(json.dumps({"batch_size": getattr(model, "batch_size", None)}), file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        if "task" in order:
            took = [seconds(lambda: model.run(order["task"]))]  # noqa: B023 - called at once
        elif "query" in order:
            query = [order["query"]]
            took = [seconds(lambda: model.encode(query)) for _ in range(order["repeats"])]  # noqa: B023 - called at once
        else:
            took = [seconds(lambda: model.encode(options["texts"]))]
        print(json.dumps({"seconds": took, "peak_mb": peak_mb()}), file=answers)


if __name__ == "__main__":
    main()
