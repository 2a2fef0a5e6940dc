# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.bench.prefixes` and the examples of `workload`: what is measured, on a tiny decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flagtriton.protocol.settings import EncoderSettings
from flagtriton_tools.bench import prefixes
from flagtriton_tools.bench.prefixes import Case, PrefixResult, measure_prefixes, prefix_table
from flagtriton_tools.errors import ToolError
from flagtriton_tools.workload import make_examples
from tests.support.checkpoints.tiny import make_bert, make_decoder

CPU = torch.device("cpu")


def settings(checkpoint: Path) -> EncoderSettings:
    return EncoderSettings(str(checkpoint), 512, token_budget=256, precision="fp32", rows="last")


def test_every_case_is_run_both_ways_in_every_round(tmp_path: Path) -> None:
    said: list[str] = []
    cases = [Case(40, 4, (2, 6)), Case(100, 8, (2, 6))]
    checkpoint = make_decoder(tmp_path / "llama", "llama")
    results = measure_prefixes(settings(checkpoint), CPU, rounds=3, report=said.append, cases=cases)
    assert [result.case for result in results] == cases
    assert {len(seconds) for result in results for seconds in (result.apart_s, result.shared_s)} == {3}
    assert [line.partition(" tokens")[0] for line in said] == ["4 texts behind 40", "8 texts behind 100"]


def test_a_model_whose_texts_share_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is no decoder whose texts can share a prefix"):
        measure_prefixes(settings(make_bert(tmp_path / "bert")), CPU, rounds=1, report=print)


def test_a_cases_texts_begin_alike_and_go_on_differently() -> None:
    input_ids = prefixes._texts(Case(30, 5, (4, 9)), 1000)
    lengths = (input_ids >= 0).sum(axis=1)
    assert (input_ids[:, :30] == input_ids[0, :30]).all()
    assert len(np.unique(input_ids[:, 30:34], axis=0)) == 5
    assert 34 <= lengths.min() <= lengths.max() <= 38


def test_the_ratio_is_that_of_the_medians() -> None:
    result = PrefixResult(Case(16, 2, (1, 5)), [9.0, 3.0, 4.0], [2.0, 1.0, 7.0])
    assert result.ratio == 2.0
    assert result.to_json()["case"] == {"prefix": 16, "texts": 2, "own": (1, 5)}
    (row,) = zip(*(list(column.cells) for column in prefix_table([result]).columns), strict=True)
    assert row == ("16", "2", "1 to 4", "4000 ms", "2000 ms", "2.0")


@pytest.mark.parametrize("words", [1, 99, 100, 101, 1000])
def test_examples_have_so_many_words_in_all(words: int) -> None:
    examples = make_examples(words)
    assert sum(len(f"{example['query']} {example['response']}".split()) for example in examples) == words
    assert all(example["query"] for example in examples)
