# SPDX-License-Identifier: Apache-2.0
"""Token ids and scores of layerwise rerankers, in process, against golden values of FlagEmbedding 1.4.2.

The server is held to these values by `tests/parity/test_layered_reranker_golden.py`, save for heads at every second
layer. Left out is what FlagEmbedding leaves uncut, and layers without a head that it drops: both are refused here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flagtriton.protocol.model_classes import PASSAGE_INSTRUCTION, QUERY_INSTRUCTION, model_class_row
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.settings import LayerwiseSettings, RerankerHeadSettings
from flagtriton.protocol.tensors import INPUT_IDS, PASSAGE_END, PASSAGE_START
from flagtriton_server.layerwise.encode import LayerwiseRequest, encode_layers
from flagtriton_server.layerwise.loading import load_decoder
from flagtriton_server.loading.encoder import choose_precision
from flagtriton_server.steps.reranker_heads import load_reranker_head
from flagtriton_server.tokenize.llm_reranker_inputs import PromptedBatch, encode_prompted_pairs
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.paths import GOLDEN

CPU = torch.device("cpu")
CLASSES = {
    "layerwise": (make_layerwise, "decoder-only-layerwise"),
    "lightweight": (make_lightweight, "decoder-only-lightweight"),
    "lightweight_sep2": (make_lightweight, "decoder-only-lightweight"),
}
VALUES = {name: json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in CLASSES}
WITH_IDS = [
    (name, case)
    for name, values in VALUES.items()
    for case in [values, *values["cases"]]
    if "input_ids" in case and case.get("arguments", {}).get("query_max_length", 0) < 200
]
EVERY_SECOND = [
    case
    for case in VALUES["lightweight_sep2"]["cases"]
    if not any(layer % 2 for layer in np.atleast_1d(case["arguments"].get("cutoff_layers", 6)))
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    return {name: make(folder / name, **VALUES[name]["changes"]) for name, (make, _) in CLASSES.items()}


def rows(name: str, checkpoint: Path, arguments: dict[str, Any]) -> dict[Any, NDArray[np.int32]]:
    """Return the pairs' token ids, and where passages begin and end, with arguments of FlagEmbedding's."""
    tokenizer = TextTokenizer.from_checkpoint(str(checkpoint), None, trust_remote_code=False)
    sides = []
    for place, (side, default) in enumerate({"query": QUERY_INSTRUCTION, "passage": PASSAGE_INSTRUCTION}.items()):
        instruction = arguments.get(f"{side}_instruction_for_rerank", default)
        instruction_format = arguments.get(f"{side}_instruction_format", "{}{}")
        texts = [pair[place] for pair in VALUES[name]["pairs"]]
        sides.append(texts if instruction is None else [instruction_format.format(instruction, text) for text in texts])
    max_length = arguments.get("max_length", 512)
    batch = PromptedBatch(
        *sides,
        query_max_length=arguments.get("query_max_length") or max_length * 3 // 4,
        max_length=max_length,
        prompt=arguments.get("prompt", model_class_row("rerank", CLASSES[name][1]).prompt),
        first=(tokenizer.bos_id,),
        most=100_000,
    )
    return encode_prompted_pairs(tokenizer, batch)


@pytest.mark.parametrize(("name", "case"), WITH_IDS)
def test_token_ids_are_the_references(name: str, case: dict[str, Any], checkpoints: dict[str, Path]) -> None:
    arguments = {**case.get("constructor", {}), **case.get("arguments", {})}
    found = rows(name, checkpoints[name], arguments)[INPUT_IDS]
    assert [row[row >= 0].tolist() for row in found] == case["input_ids"]


@pytest.mark.parametrize("case", EVERY_SECOND, ids=lambda case: str(case["arguments"]))
@torch.inference_mode()
def test_scores_of_heads_at_every_second_layer_are_the_references(
    case: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    name, arguments = "lightweight_sep2", case["arguments"]
    checkpoint, model_class = str(checkpoints[name]), CLASSES[name][1]
    layers = np.atleast_1d(arguments.get("cutoff_layers", 6)).tolist()
    options = RerankOptions(
        cutoff_layers=tuple(layers),
        compress_ratio=arguments.get("compress_ratio", 1),
        compress_layers=tuple(arguments.get("compress_layers", (8,))),
    )
    made = rows(name, checkpoints[name], arguments)
    decoder = load_decoder(LayerwiseSettings(checkpoint, model_class, 2048, 4096, "fp32"), CPU)
    request = LayerwiseRequest.of(decoder.spec, made[INPUT_IDS], made[PASSAGE_START], made[PASSAGE_END], options)
    head_settings = RerankerHeadSettings(checkpoint, "fp32", model_class=model_class)
    head = load_reranker_head(head_settings, choose_precision("fp32", CPU), CPU)
    scores = head(encode_layers(decoder, [request], 4096)[0], options).T.squeeze(0)
    np.testing.assert_allclose(scores, case["scores"], rtol=0, atol=1e-4)
