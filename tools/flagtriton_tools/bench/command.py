# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench`: builds the contestants from the options, and shows the results."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.settings import EncoderSettings
from flagtriton.protocol.tensors import TOKEN_COUNT
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.model import ServedModel
from flagtriton_server.layerwise.loading import read_spec
from flagtriton_tools.bench.growth import draw_growth, measure_growth, to_json
from flagtriton_tools.bench.hybrid import PASSAGES, OursHybrid, scored_pairs
from flagtriton_tools.bench.options import BenchOptions, BenchTask
from flagtriton_tools.bench.padding import padding_waste
from flagtriton_tools.bench.peers.deployment_under_test import Ours, Place
from flagtriton_tools.bench.peers.measure import measure
from flagtriton_tools.bench.peers.peers import infinity_server, library, peer_python
from flagtriton_tools.bench.prefixes import measure_prefixes, prefix_table
from flagtriton_tools.bench.report import draw, json_line, machine, tables
from flagtriton_tools.bench.rerank import QUERY, OursReranker, shares_of_full_time
from flagtriton_tools.bench.soak import draw_soak, soak, summary
from flagtriton_tools.bench.tasks import OurTasks, TaskResult, measure_tasks, task_table
from flagtriton_tools.demo import minilm_checkpoint
from flagtriton_tools.deploy.build import build, describe
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.shapes import make_checkpoint
from flagtriton_tools.tritonserver.options import ServeOptions, free_ports
from flagtriton_tools.workload import make_texts

__all__ = ["bench"]

_SETTLED_TEXTS = 10_000


def bench(options: BenchOptions, console: Console, results_to: Callable[[str], None]) -> None:
    """Measure, show tables, write a picture, and pass one JSON line to `results_to`.

    Raises:
        ToolError: a peer is missing, or the server does not start.
    """
    pythons = {kind: peer_python(kind, options.peers_folder) for kind in options.peers}
    checkpoint = _checkpoint(options)
    served = describe(inspect_checkpoint(checkpoint), options.add)
    task = BenchTask(options, checkpoint, served, make_texts(options.workload), console, results_to)
    if options.prefixes:
        _share_prefixes(task)
        return
    with _place(options, checkpoint, task.report) as place:
        if options.hybrid:
            kinds = ("flagembedding-m3", "flagembedding-m3-small")
            title = f"{len(task.texts)} texts, {PASSAGES} pairs"
            _compare_tasks(task, OursHybrid(place, task.texts), kinds, pythons, title)
            return
        if options.rerank:
            _rerank(task, place, pythons)
            return
        ours = Ours(place, task.texts, served.pooling_method, task.examples)
        if options.soak is not None:
            _soak(task, ours)
        elif options.growth:
            _grow(task, ours)
        else:
            _compare(task, ours, pythons)


def _compare(task: BenchTask, ours: Ours, pythons: Mapping[str, str]) -> None:
    """Measure a deployment and its peers. `pythons` has the interpreter of each peer."""
    lengths = _token_counts(ours.place, task.texts)
    with _peers(task, pythons) as peers:
        results = measure(
            [ours, *peers],
            count=len(task.texts),
            rounds=task.options.rounds,
            callers=task.options.callers,
            report=task.report,
        )
    for table in tables(results, len(task.texts), int(lengths.sum())):
        task.console.print(table)
    waste = padding_waste(lengths, task.token_budget)
    task.report(
        f"padding: {waste.packed:.1%} packed; in batches of 256: {waste.sorted:.1%} sorted by length, "
        f"{waste.unsorted:.1%} unsorted"
    )
    task.report(f"picture: {draw(results, len(task.texts), task.options.out / 'bench.png')}")
    content = {
        **_conditions(task),
        "pool_in_encoder": task.options.add.pool_in_encoder,
        "protocol": ours.place.url.partition(":")[0],
        "tokens": int(lengths.sum()),
        "padding": asdict(waste),
    }
    task.results_to(json_line(content, results))


def _rerank(task: BenchTask, place: Place, pythons: Mapping[str, str]) -> None:
    """Measure a reranker, and FlagEmbedding's if it is among the peers."""
    layerwise = task.served.row.layerwise
    if layerwise and pythons:
        raise ToolError(f"--peer: FlagEmbedding cannot run {task.served.model_class} beside this transformers")
    spec = read_spec(task.checkpoint, None, task.served.model_class) if layerwise else None
    ours = OursReranker(place, task.texts, spec)
    results = _compare_tasks(task, ours, ("flagembedding-reranker",), pythons, f"1 query, {len(task.texts)} passages")
    for line in shares_of_full_time(results[0]):
        task.report(line)


def _compare_tasks(
    task: BenchTask, ours: OurTasks, kinds: Sequence[str], pythons: Mapping[str, str], title: str
) -> list[TaskResult]:
    """Measure the tasks of a deployment, and of FlagEmbedding in the given kinds if it is among the peers."""
    with _peers(task, {kind: python for python in pythons.values() for kind in kinds}) as peers:
        results = measure_tasks(ours, peers, rounds=task.options.rounds, report=task.report)
    task.console.print(task_table(results, title))
    task.results_to(json_line(_conditions(task), results))
    return results


def _pairs(task: BenchTask) -> list[tuple[str, str]]:
    return [(QUERY, text) for text in task.texts] if task.options.rerank else scored_pairs(task.texts)["one query"]


def _conditions(task: BenchTask) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "checkpoint": task.options.shape or Path(task.checkpoint).name,
        "precision": task.served.precision,
        "workload": asdict(task.options.workload),
        "example_words": task.options.example_words,
    }


@contextmanager
def _peers(task: BenchTask, pythons: Mapping[str, str]) -> Iterator[list[Any]]:
    """Yield the peers, each loaded in a separate process."""
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flagtriton-bench-"))) / "texts.json"
        file.write_text(json.dumps(task.texts), encoding="utf-8")
        shared = {
            "checkpoint": task.checkpoint,
            "model_class": task.served.model_class,
            "pooling_method": task.served.pooling_method,
            "precision": task.served.precision,
            "device": task.device,
            "token_budget": task.token_budget,
            "examples": task.examples,
            "pairs": _pairs(task),
            "batch_size": task.options.peer_batch,
        }
        contestants: list[Any] = []
        for kind, python in pythons.items():
            task.report(f"loading {kind} …")
            if kind == "infinity":
                server = infinity_server(task.checkpoint, task.device, python, task.texts)
                contestants.append(stack.enter_context(server))
            else:
                contestants.append(stack.enter_context(library(kind, shared, python, file)))
        yield contestants


def _grow(task: BenchTask, ours: Ours) -> None:
    by_count, by_words = measure_growth(ours.place, task.served.pooling_method, task.report)
    task.report(f"picture: {draw_growth(by_count, by_words, task.options.out / 'growth.png')}")
    task.results_to(json.dumps({"machine": machine(), **to_json(by_count, by_words)}))


def _share_prefixes(task: BenchTask) -> None:
    settings = EncoderSettings(
        task.checkpoint, task.served.max_length, task.token_budget, task.served.precision, rows="last"
    )
    device = torch.device("cuda" if task.device == "gpu" else "cpu")
    results = measure_prefixes(settings, device, rounds=task.options.rounds, report=task.report)
    task.console.print(prefix_table(results))
    task.results_to(json_line(_conditions(task), results))


def _checkpoint(options: BenchOptions) -> str:
    if options.shape is not None:
        return str(make_checkpoint(options.shape, options.out / "checkpoints").resolve())
    return options.checkpoint or str(minilm_checkpoint())


@contextmanager
def _place(options: BenchOptions, checkpoint: str, report: Callable[[str], None]) -> Iterator[Place]:
    """Yield the address of the checkpoint's server: the given URL, or a server that ends afterwards."""
    if options.url is not None:
        if options.model is None:
            raise ToolError("--url names a running server; --model must say which of its deployments")
        yield Place(options.model, options.url)
        return
    models = build(inspect_checkpoint(checkpoint), options.add)
    repository = options.out / "repository"
    add_models(models, repository, force=True)
    http_port, grpc_port, metrics_port = free_ports(3)
    serve = ServeOptions(
        repository,
        load=(models[0].name,),
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_file=options.out / "tritonserver.log",
    )
    with running_server(serve, report) as server:
        url = serve.grpc_url if options.protocol == "grpc" else serve.http_url
        yield Place(models[0].name, url, serve.http_url, server.process.pid)


def _soak(task: BenchTask, ours: Ours) -> None:
    count, pid = task.options.soak, ours.place.server_pid
    if count is None or pid is None:
        raise ToolError("--soak watches a server that it starts itself; leave --url away")
    lengths = _token_counts(ours.place, task.texts)
    task.report(f"{count} texts in one call …")
    samples = soak(ours, count, lengths, pid)
    found = summary(samples, settled=_SETTLED_TEXTS)
    server_mb, client_mb = ("{:.0f} to {:.0f} MB".format(*found[key]) for key in ("server_mb", "client_mb"))
    task.report(
        f"{found['texts']} texts in {found['seconds']:.0f} s: {found['tokens_per_s_first_third']:.0f} tokens/s in the "
        f"first third, {found['tokens_per_s_last_third']:.0f} in the last; once {_SETTLED_TEXTS} texts were done, the "
        f"server held {server_mb}, the client {client_mb}, the result included"
    )
    task.report(f"picture: {draw_soak(samples, task.options.out / 'soak.png')}")
    task.results_to(json.dumps({"machine": machine(), **found}))


def _token_counts(place: Place, texts: list[str]) -> NDArray[np.int32]:
    served = ServedModel.find(place.model, ConnectionSettings(url=place.url))
    try:
        options = EmbedOptions(max_length=served.deployment.max_length)  # the default of a request may be shorter
        counts = served.embed(texts, options, TOKEN_COUNT, max_rows=256, show_progress=False)[:, 0]
        return counts.astype(np.int32)
    finally:
        served.close()
