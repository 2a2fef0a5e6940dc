# SPDX-License-Identifier: Apache-2.0
"""Chooses the comparisons of a deployment: token ids, truncation, instructions, then vectors or scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.instructions import apply_instruction
from flagtriton.protocol.model_classes import EmbedderModelClass
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton_server.sentence_transformers.check import IGNORED, check_definition
from flagtriton_tools.verify.checks import (
    Check,
    Limits,
    compare_ids,
    compare_numbers,
    compare_vectors,
    compare_weights,
    skipped,
)
from flagtriton_tools.verify.libraries import library_checks
from flagtriton_tools.verify.plain import PlainModel, Rows
from flagtriton_tools.verify.served import ServedDeployment
from flagtriton_tools.verify.texts import pairs_of

__all__ = ["checks_of", "definition_checks"]

_SHORT = 32
"""Length of texts in the comparison of truncation, tokens."""

_LENGTH = 512
"""Length of texts in other comparisons, tokens, unless the deployment takes fewer: enough to differ, and fast."""

_FILES = "sentence-transformers' files"

_HALF_DIFFERENCE = 0.05
"""Largest difference of a component of unit vectors, in half precision. Missing normalisation exceeds it."""

_UNWEIGHTED = ("cls_token", "eos_token", "pad_token", "unk_token")


def checks_of(
    served: ServedDeployment, plain: PlainModel, checkpoint: str, texts: list[str], libraries: Sequence[str] | None
) -> Iterator[Check]:
    """Yield the comparisons of one deployment as they finish.

    Args:
        served: deployment of a running server.
        plain: its checkpoint in plain transformers.
        checkpoint: folder or hub name of the checkpoint.
        texts: texts to compare, at least one.
        libraries: libraries to compare with; None means those that are installed.
    """
    if served.deployment.task == "rerank":
        yield from _reranker_checks(served, plain, pairs_of(texts))
    else:
        yield from definition_checks(served.deployment, checkpoint, served.model.name)
        yield from _embedder_checks(served, plain, texts)
    yield from library_checks(served, plain, checkpoint, texts, libraries)


def definition_checks(deployment: Deployment, checkpoint: str, name: str) -> Iterator[Check]:
    """Yield whether sentence-transformers' files are the same as when the embedder was added, as loading checks it."""
    if deployment.definition == IGNORED:
        yield skipped(_FILES, "the deployment was added with --no-modules")
        return
    try:
        check_definition(checkpoint, deployment.revision, deployment.definition, name)
    except ValueError as error:
        yield Check(_FILES, False, detail=str(error))
        return
    if deployment.definition is not None:
        yield Check(_FILES, True, detail=deployment.definition)


def _embedder_checks(served: ServedDeployment, plain: PlainModel, texts: list[str]) -> Iterator[Check]:
    most = min(_LENGTH, served.deployment.max_length)
    options = EmbedOptions(max_length=most)
    rows = plain.rows(texts, most)
    yield compare_ids("token ids", texts, served.token_ids(texts, options), rows)
    yield _truncation(served, plain, texts)
    for kind in ("query", "passage"):
        yield _instruction(served, plain, texts, kind, most)
    limits = Limits.of(served.deployment.precision)
    states = plain.states(rows)
    yield compare_vectors("dense, transformers", texts, served.dense(texts, options), plain.dense(states), limits)
    yield _by_default(served, plain, texts)
    if served.deployment.model_class == EmbedderModelClass.ENCODER_ONLY_M3:
        yield from _m3_checks(served, plain, texts, rows, states, options)


def _truncation(served: ServedDeployment, plain: PlainModel, texts: list[str]) -> Check:
    short = min(_SHORT, served.deployment.max_length)
    expected = plain.rows(texts, short)
    check = compare_ids("truncation", texts, served.token_ids(texts, EmbedOptions(max_length=short)), expected)
    cut = sum(len(row) == short for row in expected)
    side = plain.tokenizer.truncation_side
    return replace(check, detail=check.detail or f"to {short} tokens, cut on the {side}; {cut} texts have as many")


def _instruction(served: ServedDeployment, plain: PlainModel, texts: list[str], kind: str, most: int) -> Check:
    deployment = served.deployment
    instruction: str | None = getattr(deployment, f"{kind}_instruction")
    what = f"{kind} instruction"
    if instruction is None:
        return skipped(what, "the deployment has none")
    if kind == "query" and deployment.model_class == EmbedderModelClass.DECODER_ONLY_ICL:
        return skipped(what, "queries stand behind few-shot examples; FlagEmbedding's class compares them")
    instruction_format: str = getattr(deployment, f"{kind}_instruction_format")
    instructed = [apply_instruction(instruction_format, instruction, text) for text in texts]
    ours = served.token_ids(texts, EmbedOptions(max_length=most, input_type=kind))
    return replace(compare_ids(what, texts, ours, plain.rows(instructed, most)), detail=repr(instructed[0]))


def _by_default(served: ServedDeployment, plain: PlainModel, texts: list[str]) -> Check:
    """Compare the vectors of requests without options after dividing both by the expected lengths."""
    length = served.deployment.default_max_length or served.deployment.max_length
    expected = plain.by_default(texts, min(length, _LENGTH))
    what, limits = "dense, no options", Limits.of(served.deployment.precision)
    if expected is None:
        return skipped(what, "the default prompt, whose tokens are not pooled, leaves no room for a text")
    found = served.by_default(texts, None if length <= _LENGTH else _LENGTH)
    if found.shape == expected.shape:
        norms = np.maximum(np.linalg.norm(expected, axis=-1, keepdims=True), 1e-12)
        found, expected = found / norms, expected / norms
    limits = replace(limits, difference=limits.difference or _HALF_DIFFERENCE)
    return compare_vectors(what, texts, found, expected, limits)


def _m3_checks(
    served: ServedDeployment,
    plain: PlainModel,
    texts: list[str],
    rows: Rows,
    states: list[torch.Tensor],
    options: EmbedOptions,
) -> Iterator[Check]:
    limits = Limits.of(served.deployment.precision)
    yield compare_weights(
        "lexical weights", texts, served.lexical(texts, options), _lexical(plain, rows, states), limits
    )
    ours, theirs = served.colbert(texts, options), _colbert(plain, states)
    if [len(vectors) for vectors in ours] != [len(vectors) for vectors in theirs]:
        yield Check("ColBERT vectors", False, len(texts), detail="another number of vectors than of tokens")
        return
    if served.deployment.colbert_dtype == "fp16":
        limits = Limits.of("fp16")
    whose = [text for text, vectors in zip(texts, theirs, strict=True) for _ in vectors]
    yield compare_vectors("ColBERT vectors", whose, np.concatenate(ours), np.concatenate(theirs), limits)


def _lexical(plain: PlainModel, rows: Rows, states: list[torch.Tensor]) -> list[dict[int, float]]:
    head = plain.head("sparse_linear")
    left_out = {plain.tokenizer.id_of(name) for name in _UNWEIGHTED}
    found = []
    for row, vectors in zip(rows, states, strict=True):
        weights: dict[int, float] = {}
        for token, weight in zip(row, torch.relu(vectors @ head["weight"][0] + head["bias"][0]).tolist(), strict=True):
            if token not in left_out and weight > 0:
                weights[token] = max(weight, weights.get(token, 0.0))
        found.append(weights)
    return found


def _colbert(plain: PlainModel, states: list[torch.Tensor]) -> list[NDArray[np.float32]]:
    head = plain.head("colbert_linear")
    return [functional.normalize(h[1:] @ head["weight"].T + head["bias"], dim=-1).numpy() for h in states]


def _reranker_checks(served: ServedDeployment, plain: PlainModel, pairs: list[tuple[str, str]]) -> Iterator[Check]:
    deployment = served.deployment
    pairs = [pair for pair in pairs if all(len(plain.bare(text)) < deployment.max_length // 4 for text in pair)]
    if not pairs:
        yield skipped("pairs", "all texts are longer than a quarter of the deployment's max_length; give shorter ones")
        return
    names = [f"{query} | {passage}" for query, passage in pairs]
    encoder = deployment.row.is_encoder_reranker
    rows, types = plain.pair_rows(pairs) if encoder else ([_prompted(plain, deployment, pair) for pair in pairs], [])
    yield compare_ids("token ids of pairs", names, served.pair_ids(pairs), rows)
    if deployment.row.layerwise:
        yield skipped("scores, transformers", "no release of transformers has this architecture; FlagEmbedding's has")
        return
    expected = plain.encoder_scores(rows, types) if encoder else plain.yes_scores(rows)
    limits = Limits.of(deployment.precision)
    yield compare_numbers("scores, transformers", pairs, served.scores(pairs), expected, limits)


def _prompted(plain: PlainModel, deployment: Deployment, pair: tuple[str, str]) -> list[int]:
    """Return a pair as an LLM reranker reads it: first token, query, line break, passage, line break, question."""
    sides = (
        (deployment.query_instruction, deployment.query_instruction_format),
        (deployment.passage_instruction, deployment.passage_instruction_format),
    )
    query, passage = (
        plain.bare(apply_instruction(how, instruction, text) if instruction else text)
        for text, (instruction, how) in zip(pair, sides, strict=True)
    )
    bos = plain.tokenizer.id_of("bos_token")
    first = [] if bos is None or bos == plain.tokenizer.id_of("pad_token") else [bos]
    line_break = plain.bare("\n")
    return [*first, *query, *line_break, *passage, *line_break, *plain.bare(deployment.row.prompt or "")]
