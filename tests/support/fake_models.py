# SPDX-License-Identifier: Apache-2.0
"""Served embedders without a server, whose outputs can be read off a text's bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from flagtriton import BGEM3FlagModel, FlagModel
from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import write_parameters
from flagtriton.protocol.tensors import (
    COLBERT_LENGTHS,
    COLBERT_VECS,
    DENSE_VECS,
    NO_TOKEN,
    PASSAGE,
    QUERY,
    SPARSE_IDS,
    SPARSE_WEIGHTS,
    TEXT,
    TOKEN,
    TOKEN_ID,
    TensorSpec,
)
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.model import ServedModel
from flagtriton.transport.base import InferenceReply, ModelConfig
from flagtriton.transport.fake import FakeTransport, Request

__all__ = [
    "COLBERT_DIM",
    "DIMENSION",
    "M3_NAME",
    "METHODS",
    "NAME",
    "answer_as_m3",
    "answer_with_bytes",
    "colbert",
    "embedder",
    "failing_first",
    "fake_m3",
    "fake_server",
    "find",
    "m3",
    "model_config",
    "pairs_of",
    "sparse",
    "texts_of",
    "vector",
]

NAME = "bge-base-en-v1.5"
DIMENSION = 4

M3_NAME = "bge-m3"
COLBERT_DIM = 2

METHODS = ["encode", "encode_queries", "encode_corpus", "encode_single_device"]

_END_OF_TEXT = 2


def vector(text: str) -> list[float]:
    """Return `[byte count, first byte, last byte, sum of bytes]`: `vector("ab") == [2, 97, 98, 195]`."""
    data = text.encode()
    return [float(number) for number in (len(data), *(data[:1] or b"\0"), *(data[-1:] or b"\0"), sum(data))]


def sparse(text: str) -> dict[str, float]:
    """Return how often each byte comes, by the byte: `sparse("aab") == {"97": 2, "98": 1}`."""
    data = text.encode()
    return {str(byte): float(data.count(byte)) for byte in data}


def colbert(text: str) -> list[list[float]]:
    """Return `[byte, position]` for every byte and the end: `colbert("ab") == [[97, 0], [98, 1], [2, 2]]`."""
    return [[float(byte), float(position)] for position, byte in enumerate([*text.encode(), _END_OF_TEXT])]


def texts_of(request: Request, tensor: TensorSpec = TEXT) -> list[str]:
    """Return the texts that a request carried."""
    return [data.decode() for data in request.inputs[tensor.name][:, 0]]


def pairs_of(request: Request) -> list[tuple[str, str]]:
    """Return the pairs that a request carried."""
    return list(zip(texts_of(request, QUERY), texts_of(request, PASSAGE), strict=True))


def answer_with_bytes(request: Request) -> InferenceReply:
    """Return the vectors of a request's texts, cut to its `truncate_dim`."""
    vectors = np.array([vector(text) for text in texts_of(request)], dtype=np.float32)
    return {DENSE_VECS.name: vectors[:, : request.parameters.get("truncate_dim")]}


def answer_as_m3(request: Request) -> InferenceReply:
    """Return what each of BGE-M3's models would: all outputs of texts, the scores of pairs, the tokens of ids.

    A token is the character of that number. With n = 10 * bytes of the query + bytes of the passage, a pair's
    scores are n, 2n, 3n, 4n and 5n, in the order of FlagEmbedding's names.
    """
    if TOKEN_ID.name in request.inputs:
        tokens = np.array([[chr(number).encode()] for number in request.inputs[TOKEN_ID.name][:, 0]], dtype=object)
        return {TOKEN.name: tokens}
    if QUERY.name in request.inputs:
        counts = [10 * len(query.encode()) + len(passage.encode()) for query, passage in pairs_of(request)]
        names = ["colbert", "sparse", "dense", "sparse_dense", "colbert_sparse_dense"]
        return {name: np.float32([[i * n] for n in counts]) for i, name in enumerate(names, start=1)}
    return {
        name: tensor
        for name, tensor in {**answer_with_bytes(request), **_sparse(request), **_colbert(request)}.items()
        if name in request.outputs
    }


def _sparse(request: Request) -> InferenceReply:
    """Return `[B, S]` ids and weights, filled up behind each text's last."""
    rows = [sparse(text) for text in texts_of(request)]
    ids = np.full((len(rows), max(map(len, rows))), NO_TOKEN, dtype=np.int32)
    weights = np.zeros(ids.shape, dtype=np.float32)
    for row, own in enumerate(rows):
        ids[row, : len(own)] = [int(key) for key in own]
        weights[row, : len(own)] = list(own.values())
    return {SPARSE_IDS.name: ids, SPARSE_WEIGHTS.name: weights}


def _colbert(request: Request) -> InferenceReply:
    """Return `[B, T - 1, C]` read-only float16, as off a wire, and how many of the T - 1 each text has."""
    rows = [colbert(text) for text in texts_of(request)]
    lengths = np.array([[len(own)] for own in rows], dtype=np.int32)
    vectors = np.zeros((len(rows), int(lengths.max()), COLBERT_DIM), dtype=np.float16)
    for row, own in enumerate(rows):
        vectors[row, : len(own)] = own
    vectors.setflags(write=False)
    return {COLBERT_VECS.name: vectors, COLBERT_LENGTHS.name: lengths}


def failing_first(*failures: Exception) -> Callable[[Request], InferenceReply]:
    """Return an answer that raises `failures`, one a request, and then answers with bytes."""
    left = list(failures)

    def answer(request: Request) -> InferenceReply:
        if left:
            raise left.pop(0)
        return answer_with_bytes(request)

    return answer


def model_config(name: str = NAME, *, max_batch_size: int = 64, **changes: Any) -> ModelConfig:
    """Return the configuration of an encoder-only embedder, with `changes` to its `Deployment`."""
    settings: dict[str, Any] = {
        "task": "embed",
        "model_class": "encoder-only-base",
        "checkpoint": f"BAAI/{name}",
        "pooling_method": "cls",
        "max_length": 512,
        "precision": "fp32",
        "device": "cpu",
        "hidden_size": DIMENSION,
    }
    deployment = Deployment(**{**settings, **changes})
    return ModelConfig(name, max_batch_size, write_parameters(deployment))


def fake_server(
    answer: Callable[[Request], InferenceReply] = answer_with_bytes, *, max_batch_size: int = 64, **changes: Any
) -> FakeTransport:
    """Return a transport that serves `NAME` alone."""
    return FakeTransport(answer, {NAME: model_config(max_batch_size=max_batch_size, **changes)})


def fake_m3(
    answer: Callable[[Request], InferenceReply] = answer_as_m3,
    *,
    max_batch_size: int = 64,
    without: str | None = None,
    **changes: Any,
) -> FakeTransport:
    """Return a transport that serves BGE-M3: its ensemble, its scorer and its tokenizer, but for one of them."""
    settings = {"model_class": "encoder-only-m3", "colbert_dim": COLBERT_DIM, "colbert_dtype": "fp16", **changes}
    config = model_config(M3_NAME, max_batch_size=max_batch_size, **settings)
    names = [M3_NAME, f"{M3_NAME}_score", f"{M3_NAME}_tokenizer"]
    return FakeTransport(answer, {name: replace(config, name=name) for name in names if name != without})


def embedder(fake: FakeTransport, name: str = NAME, **arguments: Any) -> FlagModel:
    """Return a `FlagModel`; one request at a time, so that their order is the plan's."""
    return FlagModel(name, **{"concurrency": 1, "transport": fake, **arguments})


def m3(fake: FakeTransport, **arguments: Any) -> BGEM3FlagModel:
    """Return a `BGEM3FlagModel`; one request at a time, likewise."""
    return BGEM3FlagModel(M3_NAME, **{"concurrency": 1, "transport": fake, **arguments})


def find(fake: FakeTransport, name: str = NAME, **settings: Any) -> ServedModel:
    """Return what `fake` serves; one request at a time, likewise."""
    return ServedModel.find(name, ConnectionSettings(**{"concurrency": 1, "transport": fake, **settings}))
