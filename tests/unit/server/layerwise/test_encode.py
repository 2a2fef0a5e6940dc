# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.layerwise.encode`: a row's vectors are its own, whoever comes with it and however deep they go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.settings import LayerwiseSettings
from flagtriton_server.engines.torch_packed.attention import PackedTexts
from flagtriton_server.errors import RequestError
from flagtriton_server.layerwise.decoder import rotation
from flagtriton_server.layerwise.encode import Depth, LayerwiseRequest, check_parts, encode_layers
from flagtriton_server.layerwise.loading import LoadedDecoder, load_decoder
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.steps.fake_backend import ids

CPU = torch.device("cpu")
BOUND = 1e-5
BUDGET = 1024
MAKERS = {"decoder-only-layerwise": make_layerwise, "decoder-only-lightweight": make_lightweight}
WINDOW = 64
"""Tokens; more than any row here has, so that rows may share prefixes."""


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedDecoder]:
    """Return both kinds, of 6 layers, the last 5 of which have heads."""
    folder = tmp_path_factory.mktemp("checkpoints")
    loaded = {}
    for model_class, make in MAKERS.items():
        checkpoint = make(folder / model_class, sliding_window=WINDOW)
        loaded[model_class] = load_decoder(LayerwiseSettings(str(checkpoint), model_class, 512, 256, "fp32"), CPU)
    return loaded


@pytest.fixture
def decoder(decoders: dict[str, LoadedDecoder]) -> LoadedDecoder:
    """Return the lightweight one."""
    return decoders["decoder-only-lightweight"]


def rows(count: int, seed: int = 0) -> list[tuple[list[int], int, int]]:
    """Return rows of token ids, and where their passages begin and end; the first has none."""
    generator = np.random.default_rng(seed)
    found = []
    for place in range(count):
        before, passage, behind = (int(generator.integers(*of)) for of in ((2, 9), (1, 30), (1, 6)))
        passage = passage if place else 0
        found.append((generator.integers(4, 280, before + passage + behind).tolist(), before, before + passage))
    return found


def asked(decoder: LoadedDecoder, of: Sequence[tuple[list[int], int, int]], **options: Any) -> LayerwiseRequest:
    tokens, starts, ends = zip(*of, strict=True)
    places = (np.array(column, dtype=np.int32)[:, None] for column in (starts, ends))
    return LayerwiseRequest.of(decoder.spec, ids(*tokens), *places, RerankOptions(**options))


def vectors(decoder: LoadedDecoder, *requests: LayerwiseRequest, budget: int = BUDGET) -> list[Tensor]:
    return encode_layers(decoder, requests, budget)


@contextmanager
def passes(decoder: LoadedDecoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Yield a list that gets every layer that runs, and how many tokens go through it."""
    seen: list[tuple[int, int]] = []
    through = decoder.module.through

    def spy(layer: int, x: Tensor, angles: Any, texts: PackedTexts) -> Tensor:
        seen.append((layer, texts.token_count))
        return through(layer, x, angles, texts)

    with monkeypatch.context() as patch:
        patch.setattr(decoder.module, "through", spy)
        yield seen


@torch.inference_mode()
def one_row(decoder: LoadedDecoder, row: tuple[list[int], int, int], layers: Sequence[int], **options: Any) -> Tensor:
    """Return `[K, D]` by the plainest way: one row, one layer after another, a group's mean at a time."""
    tokens, start, end = row
    ratio, before = options.get("compress_ratio", 1), options.get("compress_layers", (8,))
    x, found = decoder.module.embedded(torch.tensor(tokens)), []
    for layer in range(max(layers) + 1):
        if layer in layers:
            found.append(decoder.module.norm(x[-1]))
        if layer == max(layers):
            break
        if layer in before and layer > 0:
            groups = [x[place : min(place + ratio, end)].mean(dim=0) for place in range(start, end, ratio)]
            x = torch.stack([*x[:start], *groups, *x[end:]])
            end = start + len(groups)
        angles = rotation(torch.arange(len(x)), decoder.spec)
        x = decoder.module.through(layer, x, angles, PackedTexts(np.array([len(x)]), CPU))
    return torch.stack(found)


CHOICES: list[dict[str, Any]] = [
    {},
    {"cutoff_layers": (2,)},
    {"cutoff_layers": (6, 2, 4)},
    {"cutoff_layers": (4, 6), "compress_ratio": 2, "compress_layers": (3,)},
    {"cutoff_layers": (3, 4), "compress_ratio": 4, "compress_layers": (0, 1, 3, 4)},
    {"compress_ratio": 3, "compress_layers": (5, 2, 2)},
    {"compress_ratio": 9, "compress_layers": (1, 2, 3)},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_rows_vectors_are_those_of_the_plainest_way(decoder: LoadedDecoder, choice: dict[str, Any]) -> None:
    request = asked(decoder, rows(7), **choice)
    (found,) = vectors(decoder, request)
    expected = [one_row(decoder, row, request.layers, **choice) for row in rows(7)]
    assert found.shape == (7, len(request.layers), 48)
    torch.testing.assert_close(found, torch.stack(expected), rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("model_class", MAKERS)
def test_both_kinds_are_computed_the_plainest_way(decoders: dict[str, LoadedDecoder], model_class: str) -> None:
    decoder = decoders[model_class]
    (found,) = vectors(decoder, asked(decoder, rows(5), cutoff_layers=(2, 5)))
    expected = [one_row(decoder, row, (2, 5)) for row in rows(5)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("budget", [1, 40, 100, BUDGET])
def test_requests_of_all_kinds_together_get_what_each_gets_alone(decoder: LoadedDecoder, budget: int) -> None:
    requests = [asked(decoder, rows(6, seed), **choice) for seed, choice in enumerate(CHOICES)]
    together = vectors(decoder, *requests, budget=budget)
    for request, found in zip(requests, together, strict=True):
        torch.testing.assert_close(found, vectors(decoder, request)[0], rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("choice", [CHOICES[2], CHOICES[4]], ids=["plain", "compressed"])
def test_neither_order_nor_grouping_of_rows_changes_a_vector(decoder: LoadedDecoder, choice: dict[str, Any]) -> None:
    of = rows(11)
    (whole,) = vectors(decoder, asked(decoder, of, **choice))
    order = np.random.default_rng(1).permutation(11).tolist()
    for sizes in ([11], [1] * 11, [3, 7, 1]):
        cuts = np.split(np.array(order), np.cumsum(sizes)[:-1])
        parts = vectors(decoder, *[asked(decoder, [of[row] for row in cut], **choice) for cut in cuts], budget=64)
        assert [len(part) for part in parts] == sizes
        torch.testing.assert_close(torch.cat(parts), whole[order], rtol=BOUND, atol=BOUND)


def test_requests_in_any_order_are_answered_in_it(decoder: LoadedDecoder) -> None:
    requests = [asked(decoder, rows(3, seed), **choice) for seed, choice in enumerate(CHOICES)]
    forwards, backwards = vectors(decoder, *requests), vectors(decoder, *requests[::-1])
    for found, expected in zip(backwards[::-1], forwards, strict=True):
        torch.testing.assert_close(found, expected, rtol=BOUND, atol=BOUND)


def test_requests_for_different_layers_share_their_passes(
    decoder: LoadedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [asked(decoder, rows(3), cutoff_layers=layers) for layers in ((2, 6), (6,), (3, 4, 6))]
    tokens = 3 * sum(len(row) for row, _, _ in rows(3))
    with passes(decoder, monkeypatch) as seen:
        found = vectors(replace(decoder, max_shared_length=0), *requests)
    assert seen == [(layer, tokens) for layer in range(6)]
    assert [of.shape[1] for of in found] == [2, 1, 3]


def test_requests_of_different_depth_do_not_mix(decoder: LoadedDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    of = rows(3)
    tokens = sum(len(row) for row, _, _ in of)
    requests = [asked(decoder, of, cutoff_layers=layers) for layers in ((3,), (2,), (2, 3))]
    with passes(decoder, monkeypatch) as seen:
        vectors(replace(decoder, max_shared_length=0), *requests)
    assert seen == [(0, 2 * tokens), (1, 2 * tokens), (2, 2 * tokens), (0, tokens), (1, tokens)]


@pytest.mark.parametrize(("layers", "deepest"), [((2,), 2), ((4, 2), 4), (None, 6)])
def test_the_network_stops_at_the_deepest_layer_asked_for(
    decoder: LoadedDecoder, monkeypatch: pytest.MonkeyPatch, layers: tuple[int, ...] | None, deepest: int
) -> None:
    with passes(decoder, monkeypatch) as seen:
        vectors(decoder, asked(decoder, rows(2), cutoff_layers=layers))
    assert [layer for layer, _ in seen] == [*range(deepest)]


def test_fewer_tokens_go_through_the_layers_behind_a_merger(
    decoder: LoadedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 3 tokens, a passage of 10, and 2: the passage is 4 tokens from layer 2 on, and 2 from layer 4 on
    request = asked(decoder, [([*range(5, 20)], 3, 13)], compress_ratio=3, compress_layers=(2, 4))
    with passes(decoder, monkeypatch) as seen:
        vectors(decoder, request)
    assert [tokens for _, tokens in seen] == [15, 15, 9, 9, 7, 7]


@pytest.mark.parametrize(
    "options",
    [
        {"compress_layers": (2, 3)},
        {"compress_ratio": 4, "compress_layers": (0,)},
        {"compress_ratio": 4, "compress_layers": (4, 5, 30)},
        {"compress_ratio": 4},
    ],
    ids=str,
)
def test_compressing_nothing_is_the_same_depth_however_it_is_said(options: dict[str, Any]) -> None:
    assert Depth.of([2, 4], RerankOptions(**options)) == Depth(4) == Depth(4, 1, ())


def test_layers_that_merge_are_told_apart_by_what_they_do() -> None:
    def depth(ratio: int, *layers: int) -> Depth:
        return Depth.of([4], RerankOptions(compress_ratio=ratio, compress_layers=layers))

    assert depth(2, 3, 1, 3, 9) == depth(2, 1, 3) == Depth(4, 2, (1, 3))
    assert len({depth(2, 1), depth(2, 3), depth(4, 1), depth(1, 1)}) == 4


def behind_prefixes() -> list[tuple[list[int], int, int]]:
    """Return five rows that begin with the same 20 tokens, a query's, one of its own, and one without any."""
    query = [*range(100, 120)]
    return [
        *[([*query, *row[:20]], 20, 24) for row, _, _ in rows(6, seed=7)[1:]],
        ([*range(4, 30)], 20, 24),
        ([], 0, 0),
    ]


@pytest.mark.parametrize("model_class", MAKERS)
def test_rows_with_a_common_beginning_share_it_and_their_vectors_stay(
    decoders: dict[str, LoadedDecoder], model_class: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, of = decoders[model_class], behind_prefixes()
    requests = [asked(decoder, of[:2], cutoff_layers=(3, 6)), asked(decoder, of[2:])]
    with passes(decoder, monkeypatch) as seen:
        found = vectors(decoder, *requests)
    assert seen == [(layer, sum(len(row) for row, _, _ in of) - 4 * 20) for layer in range(6)]
    alone = vectors(replace(decoder, max_shared_length=0), *requests)
    for ours, expected in zip(found, alone, strict=True):
        torch.testing.assert_close(ours, expected, rtol=BOUND, atol=BOUND)


def test_rows_whose_passages_are_merged_share_their_query(
    decoder: LoadedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = behind_prefixes()
    merging = asked(decoder, of, compress_ratio=2, compress_layers=(3,))
    with passes(decoder, monkeypatch) as seen:
        (found,) = vectors(decoder, merging)
    apart = sum(len(row) for row, _, _ in of) - 4 * 20
    assert [tokens for _, tokens in seen] == [apart] * 3 + [apart - 6 * 2] * 3
    (alone,) = vectors(replace(decoder, max_shared_length=0), merging)
    torch.testing.assert_close(found, alone, rtol=BOUND, atol=BOUND)


def test_what_passages_begin_with_is_not_shared_where_they_are_merged(decoder: LoadedDecoder) -> None:
    of = [([*range(100, 130), end], 18, 29) for end in (5, 6, 7)]  # the passages are alike
    too_short = [([*range(100, 130), end], 9, 29) for end in (5, 6, 7)]
    for pairs in (of, too_short):
        merging = asked(decoder, pairs, compress_ratio=3, compress_layers=(2,))
        torch.testing.assert_close(
            vectors(decoder, merging)[0],
            vectors(replace(decoder, max_shared_length=0), merging)[0],
            rtol=BOUND,
            atol=BOUND,
        )


def test_a_row_without_a_token_gets_zeros_and_leaves_the_others_theirs(decoder: LoadedDecoder) -> None:
    of = rows(2)
    for choice in (CHOICES[0], CHOICES[3]):
        (found,) = vectors(decoder, asked(decoder, [of[0], ([], 0, 0), of[1]], **choice))
        assert not found[1].any()
        torch.testing.assert_close(found[[0, 2]], vectors(decoder, asked(decoder, of, **choice))[0])


def test_vectors_are_on_the_processor_in_the_decoders_dtype(decoder: LoadedDecoder) -> None:
    (found,) = vectors(decoder, asked(decoder, rows(2)))
    assert (found.dtype, found.device) == (torch.float32, CPU)


def test_a_layer_without_a_head_is_refused_when_the_request_is_read(decoder: LoadedDecoder) -> None:
    with pytest.raises(RequestError, match=r"'cutoff_layers' has 1, .* layers 2 to 6"):
        asked(decoder, rows(2), cutoff_layers=(1, 6))


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 3), (3, 3), (1, 2)])
def test_a_passage_may_be_any_part_of_its_row(start: int, end: int) -> None:
    check_parts(ids([5, 6, 7], [5]), np.array([[start], [0]]), np.array([[end], [1]]))


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (2, 1), (0, 4), (4, 4)])
def test_a_passage_outside_its_row_is_refused_with_the_row(start: int, end: int) -> None:
    said = f"^row 1 has 3 tokens, but its passage is said to be tokens {start} to {end}$"
    with pytest.raises(RequestError, match=said):
        check_parts(ids([5, 6, 7, 8], [5, 6, 7]), np.array([[0], [start]]), np.array([[4], [end]]))
