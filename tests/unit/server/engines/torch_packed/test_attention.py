# SPDX-License-Identifier: Apache-2.0
"""`engines.torch_packed.attention`: texts end to end, held to a softmax over each text that is written out here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from flagtriton_server.engines.torch_packed.attention import PackedTexts, packed_attention
from flagtriton_server.engines.torch_packed.prefix_attention import AttentionSpec

CPU = torch.device("cpu")
LENGTHS = [130, 17, 16, 16, 15, 1]
"""Padded to 160, 32, 16, 16, 16 and 16: groups of one text and of several, with padding and without."""

SPECS = {
    "every token sees all": AttentionSpec(),
    "causal": AttentionSpec(causal=True),
    "window to both sides": AttentionSpec(window=5),
    "causal window": AttentionSpec(causal=True, window=5),
    "window of the token alone": AttentionSpec(window=1),
    "window as long as a text": AttentionSpec(causal=True, window=17),
    "window beyond every text": AttentionSpec(causal=True, window=4096),
    "scale": AttentionSpec(scale=0.9),
    "softcap": AttentionSpec(softcap=0.5),
    "causal softcap": AttentionSpec(causal=True, softcap=0.5, scale=0.9),
    "causal window with softcap": AttentionSpec(causal=True, window=5, softcap=0.5),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


class Heads(NamedTuple):
    """What attention takes, each `[N, H, d]`."""

    query: Tensor
    key: Tensor
    value: Tensor


def heads(tokens: int, *, shared: int = 1, seed: int = 0) -> Heads:
    """Return random numbers for 4 heads of 8 components, keys and values for one head in `shared`."""
    generator = torch.Generator().manual_seed(seed)
    return Heads(*(torch.randn(tokens, 4 // each, 8, generator=generator) for each in (1, shared, shared)))


def packed(given: Heads, lengths: list[int], spec: AttentionSpec, device: torch.device = CPU) -> Tensor:
    return packed_attention(*given, PackedTexts(np.array(lengths), device), spec)


def plain(given: Heads, lengths: list[int], spec: AttentionSpec) -> Tensor:
    """Return `[N, H, d]` by the definition, text by text and head by head."""
    result = torch.zeros_like(given.query)
    per_head = given.query.shape[1] // given.key.shape[1]
    start = 0
    for length in lengths:
        own = slice(start, start + length)
        start += length
        distance = torch.arange(length) - torch.arange(length)[:, None]  # [T, T], positive for keys behind the query
        for head in range(given.query.shape[1]):
            query, key, value = (
                given.query[own, head],
                given.key[own, head // per_head],
                given.value[own, head // per_head],
            )
            scores = query @ key.T * (query.shape[-1] ** -0.5 if spec.scale is None else spec.scale)  # [T, T]
            if spec.softcap is not None:
                scores = spec.softcap * torch.tanh(scores / spec.softcap)
            if spec.causal:
                scores = scores.masked_fill(distance > 0, -torch.inf)
            if spec.window is not None:
                scores = scores.masked_fill(distance.abs() >= spec.window, -torch.inf)
            result[own, head] = scores.softmax(dim=-1) @ value
    return result


def assert_close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.float(), expected.float(), rtol=0, atol=tolerance)


@every_spec
def test_texts_of_several_lengths_attend_to_themselves_alone(spec: AttentionSpec) -> None:
    given = heads(sum(LENGTHS))
    assert_close(packed(given, LENGTHS, spec), plain(given, LENGTHS, spec))


@every_spec
def test_heads_that_share_keys_and_values_read_their_own_ones(spec: AttentionSpec) -> None:
    lengths = [33, 16, 7]
    given = heads(sum(lengths), shared=2)
    assert given.key.shape[1] == 2  # heads 0 and 1 share the first, 2 and 3 the second
    assert_close(packed(given, lengths, spec), plain(given, lengths, spec))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 130])
@pytest.mark.parametrize("texts", [1, 3])
def test_texts_of_one_length_need_no_other_beside_them(length: int, texts: int) -> None:
    lengths = [length] * texts
    given = heads(sum(lengths))
    assert_close(packed(given, lengths, AttentionSpec()), plain(given, lengths, AttentionSpec()))


@every_spec
def test_texts_need_not_come_longest_first(spec: AttentionSpec) -> None:
    lengths = [3, 20, 16, 2, 33]
    given = heads(sum(lengths))
    assert_close(packed(given, lengths, spec), plain(given, lengths, spec))


@pytest.mark.parametrize("spec", [AttentionSpec(softcap=0.5), AttentionSpec(softcap=0.5, causal=True, window=5)])
def test_more_queries_than_are_computed_at_once_are_all_computed(spec: AttentionSpec) -> None:
    lengths = [300]  # padded to 320: 256 queries, then 64
    given = heads(300)
    assert_close(packed(given, lengths, spec), plain(given, lengths, spec))


@every_spec
def test_a_texts_answer_is_the_same_whatever_its_neighbours_say(spec: AttentionSpec) -> None:
    lengths = [20, 18, 5]
    one, other = heads(43, seed=1), heads(43, seed=2)
    changed = Heads(*(torch.cat([b[:20], a[20:38], b[38:]]) for a, b in zip(one, other, strict=True)))
    assert_close(packed(changed, lengths, spec)[20:38], packed(one, lengths, spec)[20:38], tolerance=0)
    assert not torch.equal(packed(changed, lengths, spec)[:20], packed(one, lengths, spec)[:20])


@every_spec
def test_rows_behind_the_last_text_are_zero(spec: AttentionSpec) -> None:
    given = heads(32)
    answers = packed(given, [17, 3], spec)  # 20 tokens of 32
    assert answers[:20].any(dim=-1).all()
    assert not answers[20:].any()


@every_spec
def test_what_a_batch_is_filled_up_with_is_seen_by_no_text(spec: AttentionSpec) -> None:
    given = heads(32)
    spoiled = Heads(*(torch.cat([tensor[:20], torch.full_like(tensor[20:], torch.nan)]) for tensor in given))
    answers = packed(spoiled, [17, 3], spec)
    assert_close(answers[:20], plain(Heads(*(tensor[:20] for tensor in given)), [17, 3], spec))
    assert not answers[20:].any()


def test_one_batchs_texts_serve_layers_that_ask_for_different_things() -> None:
    texts, given = PackedTexts(np.array(LENGTHS), CPU), heads(sum(LENGTHS))
    for spec in [*SPECS.values(), *SPECS.values()]:
        assert_close(packed_attention(*given, texts, spec), plain(given, LENGTHS, spec))


@every_spec
def test_in_bfloat16_answers_are_those_of_float32_but_for_rounding(spec: AttentionSpec) -> None:
    # bfloat16 has 8 bits, values are around 1 and seldom beyond 4: 4 / 256 is 0.016
    given = Heads(*(tensor.bfloat16() for tensor in heads(sum(LENGTHS), shared=2)))
    answers = packed(given, LENGTHS, spec)
    assert answers.dtype == torch.bfloat16
    assert_close(answers, plain(Heads(*(tensor.float() for tensor in given)), LENGTHS, spec), tolerance=0.04)


def test_the_specs_of_these_tests_have_different_answers() -> None:
    given = heads(40)
    answers = [plain(given, [40], spec) for spec in SPECS.values() if spec != AttentionSpec(causal=True, window=4096)]
    assert min((a - b).abs().max().item() for i, a in enumerate(answers) for b in answers[:i]) > 0.1


def test_tokens_are_those_of_the_texts() -> None:
    assert PackedTexts(np.array([3, 2]), CPU).token_count == 5


def test_texts_begin_where_those_before_them_end() -> None:
    cumulated = PackedTexts(np.array([3, 2, 4]), CPU).cumulated
    assert (cumulated.tolist(), cumulated.dtype) == ([0, 3, 5, 9], torch.int32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shared", [1, 2])
@every_spec
def test_the_kernel_for_varying_lengths_agrees_with_the_grouped_ones(spec: AttentionSpec, shared: int) -> None:
    cuda = torch.device("cuda")
    half = Heads(*(tensor.half().to(cuda) for tensor in heads(sum(LENGTHS), shared=shared)))
    single = Heads(*(tensor.float() for tensor in half))  # in float32 texts are grouped on CUDA too
    # fp16 has 11 bits, values are below 4: 4 / 2048 is 0.002
    assert_close(packed(half, LENGTHS, spec, cuda), packed(single, LENGTHS, spec, cuda), tolerance=0.01)
