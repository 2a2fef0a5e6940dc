# SPDX-License-Identifier: Apache-2.0
"""Properties of `encoding`: any requests under any token budget get the vectors that each text gets by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModel

from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.engines.base import LoadedEncoder
from flagtriton_server.engines.encode import check_token_ids, encode, encode_pooled
from flagtriton_server.engines.pooling import Pooling, cls_pool, last_token_pool, mean_pool
from flagtriton_server.heads.transfer import from_bytes, to_bytes
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.packing.prefix_sharing import MIN_PREFIX
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_xlm_roberta
from tests.support.steps.fake_backend import ids

EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

CPU = torch.device("cpu")
LONGEST = 48
TOLERANCE = 1e-5  # of a float32 vector's size
BUDGETS = st.integers(1, 60) | st.integers(1, 400)
POOLS: dict[Pooling, Callable[[torch.Tensor], torch.Tensor]] = {
    cls_pool: lambda states: states[0],
    mean_pool: lambda states: states.mean(0),
    last_token_pool: lambda states: states[-1],
}
"""Each to what it makes of one text's `[T, D]`."""


@dataclass(frozen=True)
class Model:
    """What is served, and the answer of transformers' own module to one text: `[T, D]` for its ids and types."""

    encoder: LoadedEncoder
    alone: Callable[[tuple[int, ...], tuple[int, ...] | None], torch.Tensor]

    def ids_of(self, shape: Shape) -> list[list[list[int]]]:
        """Return the token ids of every text of every request."""
        generator = np.random.default_rng(shape.seed)

        def draw(count: int) -> list[int]:
            return generator.integers(0, self.encoder.vocab_size, count).tolist()

        long = draw(shape.beginning)
        beginnings = [[], long, [*long[:MIN_PREFIX], *draw(8)]]  # the last two begin alike
        return [[[*beginnings[kind], *draw(own)] for kind, own in rows] for rows in shape.requests]

    def pooled(self, text: list[int], pool: Pooling, types: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return `[D]` for one text by itself; zero where it has no token."""
        return POOLS[pool](self.alone(tuple(text), types)) if text else torch.zeros(self.encoder.hidden_size)


@dataclass(frozen=True)
class Shape:
    """Requests before they have tokens: of each text which beginning it has, and how many tokens behind that."""

    requests: list[list[tuple[int, int]]]
    beginning: int
    seed: int


TEXT = st.tuples(st.sampled_from([0, 0, 1, 1, 2]), st.sampled_from([0, 1, 1, 2, 5, 16, 18]))
SHAPES = st.builds(
    Shape,
    st.lists(st.lists(TEXT, min_size=1, max_size=5), min_size=1, max_size=3),
    st.integers(MIN_PREFIX, 30),
    st.integers(0, 2**32),
)


def make_model(kind: str, folder: Path) -> Model:
    name, _, path = kind.partition(" ")
    make = {"bert": make_bert, "xlm-roberta": make_xlm_roberta}.get(name, lambda at: make_decoder(at, name))
    checkpoint = str(make(folder / name))
    encoder = load_encoder(EncoderSettings(checkpoint, LONGEST, token_budget=16, precision="fp32"), CPU)
    assert encoder.packed
    module = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()

    @cache
    @torch.inference_mode()
    def alone(text: tuple[int, ...], types: tuple[int, ...] | None) -> torch.Tensor:
        typed = {} if types is None else {"token_type_ids": torch.tensor([types])}
        return module(input_ids=torch.tensor([text]), **typed).last_hidden_state[0]

    if path == "padded":
        encoder = replace(encoder, module=module, packed=False)
    return Model(encoder, alone)


ENCODERS = ["bert", "bert padded", "xlm-roberta"]
DECODERS = ["llama", "mistral", "gemma2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    return cache(lambda kind: make_model(kind, tmp_path_factory.mktemp("checkpoints")))


@pytest.fixture(scope="module", params=[*ENCODERS, *DECODERS])
def model(request: pytest.FixtureRequest, made: Callable[[str], Model]) -> Model:
    return made(request.param)


@pytest.fixture(scope="module", params=ENCODERS[:2])
def bert(request: pytest.FixtureRequest, made: Callable[[str], Model]) -> Model:
    return made(request.param)


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest, made: Callable[[str], Model]) -> Model:
    return made(request.param)


def tensors(requests: list[list[list[int]]], more: int = 0) -> list[NDArray[np.int32]]:
    """Return `[B, T]` ids of each request, T as its longest text or so many more, and 1 at least."""
    filled = [ids(*rows, [0] * max(1, more + max(map(len, rows))))[:-1] for rows in requests]
    assert all(check_token_ids(each, 1 << 20, LONGEST + more) is None for each in filled)
    return filled


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare vectors, `[D]` or `[T, D]`, by their size."""
    assert found.shape == expected.shape
    assert ((found - expected).norm(dim=-1) <= TOLERANCE * expected.norm(dim=-1)).all()


@EXAMPLES
@given(shape=SHAPES, token_budget=BUDGETS, more=st.integers(0, 2))
def test_every_text_gets_its_own_hidden_states(model: Model, shape: Shape, token_budget: int, more: int) -> None:
    requests = model.ids_of(shape)
    answers = encode(model.encoder, tensors(requests, more), token_budget)
    for rows, states in zip(requests, answers, strict=True):
        lengths = np.array([len(row) for row in rows])
        height = max(1, -(-lengths.sum() // len(rows)))
        assert states.shape == (len(rows), height, model.encoder.hidden_size)
        assert not states.flatten(0, 1)[lengths.sum() :].any()
        sent = from_bytes(to_bytes(states), lengths, torch.float32)
        for row, own in zip(rows, sent.split(lengths.tolist()), strict=True):
            if row:
                assert_same(own, model.alone(tuple(row), None))
        for pool in POOLS:  # what the pooler makes of them
            for row, vector in zip(rows, pool(sent, torch.from_numpy(lengths)), strict=True):
                assert_same(vector, model.pooled(row, pool))


@EXAMPLES
@given(shape=SHAPES, token_budget=BUDGETS, more=st.integers(0, 2), pool=st.sampled_from([*POOLS]))
def test_every_text_gets_its_own_vector_from_the_encoder(
    model: Model, shape: Shape, token_budget: int, more: int, pool: Pooling
) -> None:
    requests = model.ids_of(shape)
    answers = encode_pooled(model.encoder, tensors(requests, more), token_budget, pool)
    for rows, vectors in zip(requests, answers, strict=True):
        for row, vector in zip(rows, vectors, strict=True):
            assert_same(vector, model.pooled(row, pool))


@EXAMPLES
@given(shape=SHAPES, token_budget=BUDGETS, data=st.data())
def test_every_pair_gets_the_vector_of_its_own_two_parts(
    bert: Model, shape: Shape, token_budget: int, data: st.DataObject
) -> None:
    assert bert.encoder.knows_types
    requests = bert.ids_of(shape)
    starts = [data.draw(st.lists(st.integers(0, LONGEST), min_size=len(rows), max_size=len(rows))) for rows in requests]
    parts = [np.array(each, dtype=np.int32)[:, None] for each in starts]
    answers = encode_pooled(bert.encoder, tensors(requests), token_budget, cls_pool, parts)
    for rows, begins, vectors in zip(requests, starts, answers, strict=True):
        for row, start, vector in zip(rows, begins, vectors, strict=True):
            types = tuple(int(place >= start) for place in range(len(row)))
            assert_same(vector, bert.pooled(row, cls_pool, types))


@EXAMPLES
@given(shape=SHAPES, token_budget=BUDGETS)
def test_texts_that_begin_alike_get_the_vectors_they_get_apart(decoder: Model, shape: Shape, token_budget: int) -> None:
    assert decoder.encoder.max_shared_length > MIN_PREFIX
    together = [[(kind or 1, own) for kind, own in rows] for rows in shape.requests]
    requests = decoder.ids_of(Shape(together, shape.beginning, shape.seed))
    answers = encode_pooled(decoder.encoder, tensors(requests), token_budget, last_token_pool)
    for rows, vectors in zip(requests, answers, strict=True):
        for row, vector in zip(rows, vectors, strict=True):
            assert_same(vector, decoder.pooled(row, last_token_pool))
