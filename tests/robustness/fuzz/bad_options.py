# SPDX-License-Identifier: Apache-2.0
"""Options that no model takes: unknown, of a wrong type, out of range, too long, too deep. Each is certainly wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

from tests.robustness.fuzz.infer import SURROGATE

__all__ = ["NESTED", "OPTION_KINDS"]

_NO_LENGTHS = (0, -1, 2**31, 2**53, 2**63 - 1, -(2**63), "5", "", True, False, 1.5, 1e308, "x" * 9_000)
_DEEP = (
    "[" * 100_000,
    '{"a":' * 50_000,
    "[" * 900 + "]" * 900,
    '[{"query":' + "[" * 5_000,
    '[{"query": "' + "\\" * 999,
)
_ODD_NAMES = (
    "",
    " ",
    "max_length ",
    "Max_Length",
    "max_lenght",
    "__class__",
    "self",
    "text",
    "zz\x00",
    "人",
    "z" * 5_000,
)

_WRONG: dict[str, tuple[Any, ...]] = {
    "max_length": _NO_LENGTHS,
    "query_max_length": _NO_LENGTHS,
    "passage_max_length": _NO_LENGTHS,
    "truncate_dim": (0, -1, "5", 1.5, True, -(2**63)),
    "normalize": (0, 1, "true", "", 1.0, "yes" * 3_000),
    "truncate": ("MIDDLE", "end", "", 1, True, "MIDDLE\x00", "x" * 20_000),
    "input_type": ("doc", "", 1, True, "QUERY", "query ", 1e9),
    "instruction": ("find: ", 1, True),
    "instruction_format": ("{}{}", 2),
    "prompt_name": ("query", 1, True, "__class__", "x" * 20_000),
    "weights": ("1,1", "nan,1,1", "-1,1,1", "inf,0,0", "1e999,0,0", "0,0,0", "", ",,", "1;1;1", 5, True, "1," * 9_000),
    "prompt": (1, True, 1.5),
    "query_instruction": (1, True, -0.5),
    "passage_instruction": (1, True, 1e300),
    "cutoff_layers": ("", "a", "99", "-1", "1,,2", "1e3", "9" * 5_000, True, 1.5, -1, "2," * 5_000, 2**62, "0x2"),
    "compress_ratio": (0, -1, "2", 1.5, True),
    "compress_layers": ("", "x", "-8", True, 2.5, "8,"),
    "domain": ("cooking", "", 1, True, "__class__", "x" * 20_000, "../"),
    "suffix": ("x", 1),
    "prefix": ("x", 2),
}

_OF_QUERIES: dict[str, tuple[Any, ...]] = {
    "instruction_format": ("{}", "{}{}{}", "{x}{y}", "{0}{5}", "{", "{}{", "{0.__class__}{}", "{:9999999999}{}", 1),
    "examples": (*_DEEP, "{}", "NaN", "", "[1]", '["dog"]', '[{"answer": "x"}]', 7, "[null]", "\x00"),
    "examples_instruction_format": ("{}", "{a}{b}{c}", "{", 3),
    "prefix": (1, True, "fox " * 20_000),
    "suffix": (1, 2.5),
}


def _unknown(rng: Random) -> dict[str, Any]:
    letters = "".join(rng.choices("abcdefgh_-.äß人", k=rng.randint(1, 30)))
    name = rng.choice([f"zz_{letters}", rng.choice(_ODD_NAMES)])
    return {name: rng.choice([1, True, "x", -1.5])}


def _wrong_value(rng: Random) -> dict[str, Any]:
    name = rng.choice(sorted(_WRONG))
    return {name: rng.choice(_WRONG[name])}


def _wrong_for_a_query(rng: Random) -> dict[str, Any]:
    name = rng.choice(sorted(_OF_QUERIES))
    return {"input_type": "query", name: rng.choice(_OF_QUERIES[name])}


def _no_number(rng: Random) -> dict[str, Any]:
    return {rng.choice(sorted(_WRONG)): rng.choice([math.nan, math.inf, -math.inf])}


def _surrogate(rng: Random) -> dict[str, Any]:
    text = rng.choice([SURROGATE, "a" + SURROGATE, SURROGATE * 500])
    return rng.choice(
        [{"input_type": text}, {"truncate": text}, {text: 1}, {"input_type": "query", "instruction": text}]
    )


def _surrogate_in_json(rng: Random) -> dict[str, Any]:
    examples = rng.choice(['[{"query": "\\ud800"}]', '["\\udfff"]', '[{"\\ud800": "x"}]', '[{"query": "a\\ude00b"}]'])
    return {"input_type": "query", "examples": examples}


def _huge(rng: Random) -> dict[str, Any]:
    name = rng.choice(["truncate", "input_type", "normalize", "max_length", "domain", "zz", "weights", "cutoff_layers"])
    return {name: rng.choice(["x", "人", "\x01", "9"]) * rng.choice([100_000, 700_000])}


def _many(rng: Random) -> dict[str, Any]:
    return {f"zz{number}": number for number in range(rng.choice([20, 3_000]))}


OPTION_KINDS: dict[str, Callable[[Random], dict[str, Any]]] = {
    "unknown option": _unknown,
    "option's value": _wrong_value,
    "query option's value": _wrong_for_a_query,
    "option NaN or infinite": _no_number,
    "lone surrogate in option": _surrogate,
    "lone surrogate in option's JSON": _surrogate_in_json,
    "huge option": _huge,
    "many options": _many,
}

NESTED: tuple[Any, ...] = (None, [], {}, [[1]], {"a": {"b": [1, None]}}, [1] * 5_000, {"max_length": 5})
"""What JSON can say and Triton's parameters cannot; gRPC has no way to write them."""
