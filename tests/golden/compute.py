# SPDX-License-Identifier: Apache-2.0
"""Writes the scores that FlagEmbedding gives two tiny checkpoints; `make.sh` has the environment it needs.

    python tests/golden/compute.py OUT_FOLDER

Knows the reference and the checkpoints' makers, nothing of our own code.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from FlagEmbedding import LayerWiseFlagLLMReranker, LightWeightFlagLLMReranker

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, as the reference's environment does

from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight

_PARAGRAPH = (
    "The panda is a bear that lives in the mountains of central China and eats bamboo, mostly in the morning and in "
    "the evening; in winter it moves lower, where the snow is thin and the shoots are within reach. "
)
_QUESTION = "What does the giant panda eat in winter, and where in the mountains does one find it then? "

PAIRS: list[list[str]] = [
    ["what is a panda?", "The giant panda is a bear species endemic to China."],
    ["what is a panda?", "hi"],
    ["what is a panda?", ""],
    ["", "A passage without a query."],
    ["", ""],
    ["x", "y"],
    ["Yes", "No"],
    ["Is it raining?", "Yes, and it has been since the morning.\nTake an umbrella.\n\nAnd boots."],
    ["naïve façade", "Ångström coöperated with the café's garçon: déjà vu!"],
    ["什么是大熊猫？", "大熊猫是中国特有的熊科动物，主要吃竹子。"],
    ["🐼?", "🐼🎋 eats 🎋 → ∑∞"],
    ["  spaces  and\ttabs ", "  at both  ends  "],
    ["price of bread in 1914", "In 1914 a loaf cost 0.063 dollars; in 1919, 0.10."],
    ["where do pandas live", _PARAGRAPH],
    ["where do pandas live", _PARAGRAPH * 2],
    ["where do pandas live", _PARAGRAPH * 5],  # over max_length
    [_QUESTION * 2, "Bamboo."],
    [_QUESTION * 7, "Bamboo, in the mountains of Sichuan."],  # over query_max_length
    [_QUESTION * 7, _PARAGRAPH * 5],  # and over what both have together
]

_NO_INSTRUCTIONS = {"query_instruction_for_rerank": None, "passage_instruction_for_rerank": None}
_INSTRUCTIONS = {
    "query_instruction_for_rerank": "Question: ",
    "query_instruction_format": "{}<{}>",
    "passage_instruction_for_rerank": "Answer: ",
    "passage_instruction_format": "{}{}.",
}
_PROMPT = "Does the passage B answer the query A? Say 'Yes' or 'No'."


@dataclass(frozen=True)
class Case:
    """What compute_score gets, and what the constructor gets beside the defaults."""

    arguments: dict[str, Any] = field(default_factory=dict)
    constructor: dict[str, Any] = field(default_factory=dict)

    @property
    def records_ids(self) -> bool:
        """Whether a file records the input ids too: where texts are cut or written differently, once each."""
        options = {**self.arguments, **self.constructor}
        lengths = {"max_length", "query_max_length"}
        return "compress_ratio" not in options and any(key in lengths or "instruction" in key for key in options)


_SHARED = [
    Case(),
    Case({"cutoff_layers": [2]}),
    Case({"cutoff_layers": [4]}),
    Case({"cutoff_layers": [6]}),
    Case({"cutoff_layers": 3}),
    Case({"cutoff_layers": [2, 4]}),
    Case({"cutoff_layers": [2, 4, 6]}),
    Case({"cutoff_layers": [2, 3, 4, 5, 6]}),
    Case({"cutoff_layers": [1, 4, 7]}),  # only 4 has a head
    Case({"cutoff_layers": [4, 4]}),
    Case({"normalize": True}),
    Case({"cutoff_layers": [3, 5], "normalize": True}),
    Case({"max_length": 24, "query_max_length": 8}),
    Case({"max_length": 24}),
    Case({"max_length": 24, "query_max_length": 200}),  # the query alone is longer than query and passage may be
    Case({"prompt": ""}),
    Case({"prompt": _PROMPT}),
    Case({"batch_size": 3}),
    Case({}, _NO_INSTRUCTIONS),
    Case({"max_length": 64}, _INSTRUCTIONS),
    Case({}, {"cutoff_layers": [3, 5], "prompt": _PROMPT, "max_length": 32, "query_max_length": 16, "normalize": True}),
]

_COMPRESSED = [
    *(
        Case({"compress_ratio": ratio, "compress_layers": layers})
        for ratio in (2, 3, 8)
        for layers in ([2], [4], [2, 4], [1, 3, 5])
    ),
    *(
        Case({"compress_ratio": ratio, "compress_layers": layers, "cutoff_layers": cutoff})
        for ratio, layers, cutoff in (
            (2, [2], [4]),
            (3, [1, 3, 5], [5]),
            (8, [2, 4], [6]),
            (2, [2], [2, 4]),
            (2, [2, 4], [2, 3, 4, 5, 6]),
            (3, [1, 3, 5], [2, 4, 6]),
            (8, [1], [2, 6]),
            (2, [4], [4]),  # at the cutoff: nothing is compressed
            (2, [5], [4]),  # nor beyond it
            (2, [2, 5], [4]),
            (2, [4], [2, 4]),
        )
    ),
    Case({"compress_ratio": 2}),  # at layer 8, of 6
    Case({"compress_ratio": 2, "compress_layers": [0]}),
    Case({"compress_ratio": 2, "compress_layers": [0, 2]}),
    Case({"compress_ratio": 1, "compress_layers": [2]}),
    Case({"compress_ratio": 2, "compress_layer": [2], "compress_layers": [4]}),  # the old name wins
    Case({"compress_ratio": 2, "compress_layers": [2], "cutoff_layers": [2, 4], "normalize": True}),
    Case({"compress_ratio": 2, "compress_layers": [2], "batch_size": 3}),
    Case({"compress_ratio": 2, "compress_layers": [2, 4], "max_length": 24, "query_max_length": 8}),
    Case({"compress_ratio": 2, "compress_layers": [2, 4], "max_length": 24, "query_max_length": 200}),
    Case({"compress_ratio": 3, "compress_layers": [2], "prompt": ""}),
    Case({"compress_ratio": 2, "compress_layers": [2]}, _NO_INSTRUCTIONS),  # passages of no token
    Case({}, {"compress_ratio": 2, "compress_layers": [2], "cutoff_layers": [4]}),
]

_APART = [
    Case(),
    Case({"cutoff_layers": [4]}),
    Case({"cutoff_layers": [2, 4, 6]}),
    Case({"cutoff_layers": [3, 4]}),  # only 4 has a head
    Case({"cutoff_layers": [4], "compress_ratio": 2, "compress_layers": [2]}),
    Case({"cutoff_layers": [2, 4, 6], "compress_ratio": 3, "compress_layers": [3]}),
]


class Reference:
    """One checkpoint, and the reference's class for it."""

    def __init__(self, wrapper: Callable[..., Any], folder: Path) -> None:
        self.wrapper = wrapper
        self.folder = folder
        self._open: dict[str, Any] = {}

    def run(self, case: Case) -> dict[str, Any]:
        """What a file records of one case: its options and scores, and input ids where the case asks for them."""
        reranker = self._reranker(case)
        scores = reranker.compute_score(PAIRS, **case.arguments)
        dtypes = {parameter.dtype for parameter in reranker.model.parameters()}
        if dtypes != {torch.float32}:  # it halves a model, if at all, when it scores
            raise RuntimeError(f"The reference holds {dtypes}, {torch.float32} alone was expected.")
        outcome = {"arguments": case.arguments, "constructor": case.constructor, "scores": scores}
        return {**outcome, "input_ids": self.input_ids(case)} if case.records_ids else outcome

    def input_ids(self, case: Case) -> list[list[int]]:
        """The ids the model gets for every pair, without padding; pairs go one by one, so that none is reordered."""
        reranker, seen = self._reranker(case), []

        def look(_module: torch.nn.Module, _arguments: Any, options: dict[str, Any]) -> None:
            ids, mask = options["input_ids"], options["attention_mask"].bool()
            seen.append(ids[0][mask[0]].tolist())

        handle = reranker.model.register_forward_pre_hook(look, with_kwargs=True)
        rows = []
        for pair in PAIRS:
            reranker.compute_score([pair], **case.arguments)
            rows.append(seen[-1])
        handle.remove()
        return rows

    def _reranker(self, case: Case) -> Any:
        key = json.dumps(case.constructor, sort_keys=True)
        if key not in self._open:
            self._open[key] = self.wrapper(str(self.folder), devices="cpu", use_bf16=False, **case.constructor)
        return self._open[key]


def write(
    file: Path,
    wrapper: Callable[..., Any],
    make: Callable[..., Path],
    cases: Sequence[Case],
    changes: dict[str, Any],
    descending: Case | None = None,
) -> None:
    """Make a checkpoint, score every case with the reference's class, and write the outcome as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make(Path(folder) / "checkpoint", **changes)
        reference = Reference(wrapper, checkpoint)
        content = {
            "command": "python tests/golden/compute.py tests/golden",
            "versions": _versions(),
            "weights_sha256": hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest(),
            "changes": changes,
            "pairs": PAIRS,
            "input_ids": reference.input_ids(Case()),
            "cases": [reference.run(case) for case in cases],
        }
        if descending is not None:
            content["descending"] = reference.run(descending)
    file.write_text(_compact(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)), encoding="utf-8")


def _versions() -> dict[str, str]:
    names = ["torch", "transformers", "tokenizers", "FlagEmbedding", "numpy"]
    return {"python": platform.python_version(), **{name.lower(): version(name) for name in names}}


def _compact(text: str) -> str:
    """The same JSON with every list of numbers on one line."""
    return re.sub(r"\[\n([-+.\de,\s]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write all files into the folder named; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python tests/golden/compute.py OUT_FOLDER\n")
        return 2
    out = Path(arguments[0])
    out.mkdir(parents=True, exist_ok=True)
    descending = Case({"cutoff_layers": [4, 2]})  # heads go by the list's order, hidden states by the layers'
    write(out / "layerwise.json", LayerWiseFlagLLMReranker, make_layerwise, _SHARED, {}, descending)
    lightweight = [*_SHARED, *_COMPRESSED]
    write(out / "lightweight.json", LightWeightFlagLLMReranker, make_lightweight, lightweight, {}, descending)
    write(out / "lightweight_sep2.json", LightWeightFlagLLMReranker, make_lightweight, _APART, {"layer_sep": 2})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
