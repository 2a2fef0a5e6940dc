# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.bench`: its arithmetic, its texts and checkpoints, and what it refuses to start."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer
from flagtriton_tools import shapes
from flagtriton_tools.bench.hybrid import scored_pairs
from flagtriton_tools.bench.padding import padding_waste
from flagtriton_tools.bench.peers.callers import fan_out
from flagtriton_tools.bench.peers.measure import Latency, Result, compare, measure
from flagtriton_tools.bench.peers.memory import PeakMemory, held_mb, tree_peaks_mb
from flagtriton_tools.bench.peers.peers import peer_python
from flagtriton_tools.bench.report import draw, json_line, tables
from flagtriton_tools.bench.rerank import shares_of_full_time
from flagtriton_tools.bench.soak import Sample, summary
from flagtriton_tools.bench.tasks import TaskResult, task_table
from flagtriton_tools.cli.main import main
from flagtriton_tools.errors import ToolError
from flagtriton_tools.shapes import SHAPES, Shape, make_checkpoint
from flagtriton_tools.workload import Workload, make_texts


class Sleeper:
    """A contestant who takes a known time."""

    def __init__(self, name: str, seconds: float, *, serves: bool) -> None:
        self.name, self.serves, self._seconds = name, serves, seconds
        self.turns: list[str] = []

    def bulk(self) -> float:
        self.turns.append("bulk")
        return self._seconds

    def query(self, text: str, repeats: int) -> list[float]:
        return [self._seconds / 100] * repeats

    def callers(self, count: int) -> tuple[float, list[float]]:
        self.turns.append(f"{count} callers")
        return self._seconds, [self._seconds / 10] * 99 + [self._seconds]

    def peak_mb(self) -> dict[str, float]:
        return {"it": 12.0}


def test_texts_have_the_lengths_that_were_asked_for() -> None:
    words = [len(text.split()) for text in make_texts(Workload(count=2000, median_words=40, least_words=5))]
    assert len(words) == 2000
    assert min(words) >= 5
    assert max(words) <= 200
    assert 35 <= np.median(words) <= 45


def test_a_spread_of_zero_makes_all_texts_alike_in_length() -> None:
    texts = make_texts(Workload(count=50, median_words=20.5, spread=0))
    assert {len(text.split()) for text in texts} == {20}


def test_the_same_seed_makes_the_same_texts_and_another_makes_others() -> None:
    assert make_texts(Workload(count=5)) == make_texts(Workload(count=5))
    assert make_texts(Workload(count=5)) != make_texts(Workload(count=5, seed=1))


def test_padding_is_counted_as_a_part_of_what_is_computed() -> None:
    # Packed: 96 tokens fill a batch of 96. In one batch of 2: 2 * 64 places for 96 tokens, sorted or not.
    waste = padding_waste(np.array([32, 64]), token_budget=4096)
    assert waste.packed == 0
    assert waste.sorted == waste.unsorted == 0.25


def test_sorting_by_length_saves_padding() -> None:
    lengths = np.tile([10, 100], 256)  # sorted: a batch of 256 longs and one of 256 shorts
    waste = padding_waste(lengths, token_budget=4096)
    assert waste.sorted == 0
    assert waste.unsorted == pytest.approx(0.45)  # 55 of 100 places are used


def test_ratios_are_taken_round_by_round() -> None:
    assert compare([1.0, 2.0, 1.0], [4.0, 6.0, 5.0]) == (4.0, 3.0, 5.0)


def test_everybody_takes_a_turn_in_every_round_and_only_servers_get_callers() -> None:
    ours, library = Sleeper("ours", 1.0, serves=True), Sleeper("library", 4.0, serves=False)
    told: list[str] = []
    results = measure([ours, library], count=100, rounds=3, callers=[2, 8], report=told.append)
    assert ours.turns == ["bulk"] * 3 + ["2 callers"] * 2 + ["8 callers"] * 2  # the first of each warms up
    assert library.turns == ["bulk"] * 3
    assert results[0].bulk_s == [1.0] * 3
    assert results[1].query_ms == [40.0] * 3
    assert results[0].latencies[1] == Latency(8, 100.0, 100.0, 100.0, pytest.approx(109.0))
    assert results[1].latencies == []
    assert results[1].peak_mb == {"it": 12.0}
    assert told[0].startswith("round 1/3: ours: 100 texts/s")


def test_tables_picture_and_json_show_the_same_numbers(tmp_path: Path) -> None:
    results = [
        Result("flagtriton", [1.0, 1.0, 2.0], [5.0], [Latency(8, 50.0, 1.0, 2.0, 3.0)], {"encoder": 100.0}),
        Result("other", [8.0, 9.0, 20.0], [10.0]),
    ]
    console = Console(width=140, record=True, file=io.StringIO())
    for table in tables(results, count=100, tokens=7000):
        console.print(table)
    shown = console.export_text()
    assert "9.00x (8.00 to 10.00)" in shown
    assert "7000" in shown  # tokens a second, at one second a run
    assert "3.0 ms" in shown
    assert draw(results, 100, tmp_path / "new" / "picture.png").stat().st_size > 10_000
    line = json.loads(json_line({"tokens": 7000}, results))
    assert line["tokens"] == 7000
    assert line["results"][1]["bulk_s"] == [8.0, 9.0, 20.0]
    assert line["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert line["machine"]["versions"]["transformers"]


def test_callers_run_at_the_same_time() -> None:
    together = threading.Barrier(4)
    total, each = fan_out(lambda _: together.wait(5), range(8), 4)  # passes only if four wait at once
    assert len(each) == 8
    assert total >= max(each)


def test_peak_memory_is_told_for_a_process_and_its_children() -> None:
    peaks = tree_peaks_mb(os.getpid())
    assert any(f"({os.getpid()})" in name for name in peaks)
    assert max(peaks.values()) >= held_mb(os.getpid(), children=False) * 0.9
    assert tree_peaks_mb(2**22 + 1) == {}


def test_a_soak_tells_pace_by_tokens_and_memory_once_settled() -> None:
    samples = [
        Sample(0, 0, 0, 500, 50),
        Sample(1, 10, 100, 900, 60),
        Sample(2, 30, 200, 800, 61),
        Sample(3, 60, 300, 810, 62),
        Sample(5, 100, 400, 805, 63),
    ]
    found = summary(samples, settled=30)
    assert found["tokens_per_s_first_third"] == 100  # from 1 s to 2 s
    assert found["tokens_per_s_last_third"] == 50  # from 3 s to 5 s
    assert found["server_mb"] == [800, 810]
    assert found["client_mb"] == [61, 63]


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_made_checkpoint_has_its_shape_and_tokenizes_the_texts(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHAPES, "tiny", Shape(family, 6000, 2, 32, 4, 66))
    folder = make_checkpoint("tiny", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]) == (2, 32, 128)
    assert config["vocab_size"] == 6000
    tokenizer = TextTokenizer.from_checkpoint(str(folder), None, False)
    (answer,) = tokenizer.encode([TextBatch(["the music of mitochondria"], 64)])
    ids = next(iter(answer.values()))[0]
    unknown = 1 if family == "bert" else 3
    assert unknown not in ids
    assert len(ids) > 2 + 4  # four words, one of them of several pieces, and two special tokens
    assert ids.max() < 6000


def test_a_made_checkpoint_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", Shape("bert", 5000, 1, 32, 4, 64))
    folder = make_checkpoint("tiny", tmp_path)
    monkeypatch.setattr(shapes, "_save_tokenizer", lambda *_: pytest.fail("made again"))
    assert make_checkpoint("tiny", tmp_path) == folder


def test_a_peers_own_environment_comes_first(tmp_path: Path) -> None:
    python = tmp_path / "raw" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert peer_python("raw", tmp_path) == str(python)


def test_a_missing_peer_is_told_with_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"run tools/install_peer\.sh infinity"):
        peer_python("infinity", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--callers", "8,x"], "--callers is '8,x'; expected whole numbers"),
        (["--callers", "0"], "--callers is '0'; expected whole numbers"),
        (["--least-words", "9", "--most-words", "3"], "--least-words 9 is more than --most-words 3"),
        (["--url", "grpc://localhost:1"], "--model must say which of its deployments"),
        (["--peer", "infinity", "--peers-folder", "/nonexistent"], "run tools/install_peer.sh infinity"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    assert main(["bench", *arguments, "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
    assert time.monotonic() - started < 10


def test_the_scored_pairs_have_one_query_or_200_of_the_same_words() -> None:
    pairs = scored_pairs(["one two", "three", "four five six"])
    assert {task: len(of_task) for task, of_task in pairs.items()} == dict.fromkeys(pairs, 200)
    queries = {task: {query for query, _ in of_task} for task, of_task in pairs.items()}
    assert queries["one long query"] == {"four five six"}
    assert len(queries["distinct queries"]) == 200
    assert {" ".join(sorted(query.split()[1:])) for query in queries["distinct queries"]} == {"five four six"}
    assert [passage for _, passage in pairs["one query"]][:4] == ["one two", "three", "four five six", "one two"]


def test_a_table_of_tasks_shows_medians_ratios_clock_and_memory() -> None:
    ours = TaskResult("flagtriton", {"dense": [2.0, 4.0]}, {"dense": [1.0, 2.0]}, {"dense": 100.0})
    peer = TaskResult("peer", {"dense": [6.0, 8.0]}, {}, {"dense": 250.0})
    console = Console(file=io.StringIO(), width=120)
    console.print(task_table([ours, peer], "7 texts"))
    shown = console.file.getvalue()
    assert "7 texts" in shown
    for expected in ("3.00", "1.50 s", "100", "2.50x (2.00 to 3.00)", "250"):
        assert expected in shown


def test_a_layered_rerankers_tasks_are_shares_of_the_whole_networks_time() -> None:
    ours = TaskResult("flagtriton", {"one query": [2.0, 4.0, 5.0], "layers 1 to 4 of 12": [1.0, 1.0, 2.0]})
    (line,) = shares_of_full_time(ours)
    assert line == "layers 1 to 4 of 12: 0.40 of the time of all layers (0.25 to 0.50)"


def test_memory_is_watched_while_a_task_runs() -> None:
    memory = PeakMemory(os.getpid())
    with memory.watched():
        time.sleep(0.4)  # it looks four times a second
    assert 0.5 * held_mb(os.getpid()) < memory.mb < 2 * held_mb(os.getpid())


def test_the_memory_of_another_machine_is_not_known() -> None:
    memory = PeakMemory(None)
    with memory.watched():
        time.sleep(0.4)
    assert memory.mb == 0


@pytest.mark.parametrize("flag", ["--hybrid", "--rerank"])
def test_a_benchmark_of_tasks_has_one_peer(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", flag, "--peer", "raw"]) == 2
    assert "flagembedding is the one peer" in capsys.readouterr().err.replace("\n", " ")
