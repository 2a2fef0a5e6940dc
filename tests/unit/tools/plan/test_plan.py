# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.plan`: sizes of published models, rates, and how many servers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from flagtriton_tools.cli.main import cli
from flagtriton_tools.cli.plan import parse_rate
from flagtriton_tools.errors import ToolError
from flagtriton_tools.plan.capacity import Load, make_plan, request_tokens
from flagtriton_tools.plan.devices import EFFICIENCY, GPUS
from flagtriton_tools.plan.sizes import flops_per_token, network_parameters, parameters
from flagtriton_tools.shapes import SHAPES, Shape

# Sizes.


@pytest.mark.parametrize(
    ("shape", "millions"),
    [
        ("minilm-l6", 22.7),
        ("bge-small", 33.4),
        ("bge-base", 109.5),
        ("bge-large", 335),
        ("bge-m3", 568),
        ("qwen3-embedding-0.6b", 596),
        ("bge-en-icl", 7_110),
        ("bge-reranker-v2-gemma", 2_506),
    ],
)
def test_published_models_have_as_many_parameters_as_is_said_of_them(shape: str, millions: float) -> None:
    assert parameters(SHAPES[shape]) / 1e6 == pytest.approx(millions, rel=0.01)


def test_a_layer_s_operations_by_hand() -> None:
    tiny = Shape("bert", 100, 2, 8, 2)
    # Of each layer: four matrices of 8 x 8, two of 8 x 32; attention's 4 T H beside them.
    assert network_parameters(tiny) == 2 * (4 * 64 + 2 * 256)
    assert flops_per_token(tiny, 10) == 2 * 1536 + 4 * 10 * 8 * 2
    grouped = Shape("mistral", 100, 1, 8, 4, more={"num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 16})
    assert network_parameters(grouped) == 8 * 16 * 2 + 8 * 4 * 2 + 3 * 8 * 16


# Rates.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2000/s", 2000),
        ("5k/min", 5000 / 60),
        ("1M/day", 1e6 / 86_400),
        ("1,500/s", 1500),
        (" 0.5/s", 0.5),
        ("1G/d", 1e9 / 86_400),
    ],
)
def test_rates_are_read(text: str, expected: float) -> None:
    assert parse_rate(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["2000", "/s", "0/s", "x/s", "1..5/s", "2000/week", "-1/s", ""])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ToolError, match="expected requests and a time, as 2000/s, 5k/min or 1M/day"):
        parse_rate(text)


# Plans.


def load(**changes: Any) -> Load:
    return Load(**{"shape": "minilm-l6", "requests_per_s": 100.0, "tokens": 100.0, **changes})


def test_lengths_have_the_mean_that_was_asked_for() -> None:
    tokens = request_tokens(load(tokens=180, texts=4), 20_000)
    assert tokens.mean() == pytest.approx(720, rel=0.02)
    assert tokens.min() >= 4
    assert np.unique(request_tokens(load(spread=0.0), 10)).tolist() == [100]


def test_servers_have_room_for_what_comes_and_one_may_be_away() -> None:
    plan = make_plan(load(), tokens_per_s=4_000)
    assert plan.tokens_per_s == 10_000
    assert (plan.servers - plan.spare) * 4_000 > 10_000
    assert plan.p95_failing_s <= 0.25
    assert plan.p95_s <= plan.p95_failing_s
    assert make_plan(load(), tokens_per_s=4_000, spare=0).servers == plan.servers - 1
    with_two = make_plan(load(), tokens_per_s=4_000, spare=2)
    assert with_two.servers == plan.servers + 1


def test_one_fewer_would_not_do() -> None:
    from flagtriton_tools.plan import capacity

    plan = make_plan(load(), tokens_per_s=4_000, spare=0)
    server = capacity.Server(4_000, 4_096, pass_s=0.004, request_s=0.0004, fixed_s=0.003)
    assert capacity._keeps(load(), server, plan.servers)
    assert not capacity._keeps(load(), server, plan.servers - 1)


def test_twice_the_load_needs_no_more_than_twice_the_servers() -> None:
    one, two = (make_plan(load(requests_per_s=rate), tokens_per_s=4_000, spare=0) for rate in (400.0, 800.0))
    assert one.servers < two.servers <= 2 * one.servers


def test_more_servers_than_are_simulated_have_their_part_each() -> None:
    plan = make_plan(load(requests_per_s=10_000.0), tokens_per_s=4_000, spare=0)
    assert 250 < plan.servers < 320


def test_tokenizers_may_be_what_more_servers_are_for() -> None:
    many = load(requests_per_s=20_000.0, tokens=5)
    one, four = (make_plan(replace(many, tokenizers=count), tokens_per_s=1e6, spare=0) for count in (1, 4))
    assert one.servers * 2_500 > 20_000  # 0.4 ms of one process each
    assert four.servers < one.servers / 2


def test_a_tighter_limit_needs_more() -> None:
    loose, tight = (make_plan(load(p95_s=limit), tokens_per_s=4_000, spare=0).servers for limit in (1.0, 0.1))
    assert tight > loose


def test_what_no_server_can_do_is_said() -> None:
    with pytest.raises(ToolError, match=r"within .* s, so no number of them keeps to --p95 0.01"):
        make_plan(load(p95_s=0.01), tokens_per_s=4_000)


def test_where_figures_come_from_is_said() -> None:
    assert "docs/benchmarks.md" in make_plan(load()).assumptions[0]
    assert make_plan(load(), tokens_per_s=4_000).assumptions[0] == "one server encodes 4,000 tokens/s, as you said"
    estimated = make_plan(load(shape="bge-m3"), gpu="h200")
    expected = GPUS["h200"].flops * EFFICIENCY / flops_per_token(SHAPES["bge-m3"], 100)
    assert estimated.server_tokens_per_s == expected
    assert estimated.assumptions[0].startswith("NOT MEASURED")
    assert estimated.gpus == estimated.servers


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ({"shape": "bge-x"}, {}, "--shape is bge-x; known are minilm-l6, "),
        ({}, {"gpu": "h900"}, "--gpu is h900; known are b200, "),
        ({"shape": "bge-large"}, {}, "nobody has measured bge-large on a processor: measure it"),
    ],
)
def test_what_is_not_known_is_refused(changes: dict[str, Any], more: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError, match=words):
        make_plan(load(**changes), **more)


def test_network_and_memory_by_hand() -> None:
    plan = make_plan(load(texts=2, requests_per_s=10), tokens_per_s=40_000)
    assert plan.in_bytes_per_s == 10 * 2 * 100 * 4
    assert plan.out_bytes_per_s == 10 * 2 * 384 * 4
    assert plan.memory_bytes == parameters(SHAPES["minilm-l6"]) * 2 + 1e9


# The command.


def command(*more: str) -> Any:
    required = ["--shape", "minilm-l6", "--rate", "100/s", "--tokens", "100", "--tokens-per-s", "20000"]
    return CliRunner().invoke(cli, ["plan", *required, *more])


def test_the_plan_is_shown_with_its_assumptions() -> None:
    result = command()
    assert result.exit_code == 0, result.output
    for words in ("servers", "1 of them to spare", "p95 without the spare", "It took for granted that", "as you said"):
        assert words in result.output


def test_the_plan_as_json() -> None:
    said = json.loads(command("--json", "--spare", "0").output)
    assert said["load"]["requests_per_s"] == 100
    assert said["plan"]["servers"] == 1
    assert said["plan"]["assumptions"]
