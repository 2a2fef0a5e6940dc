# SPDX-License-Identifier: Apache-2.0
"""Attention of texts that share a prefix, held to a softmax over each text written out in full."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flagtriton_server.engines.torch_packed.attention import PackedTexts, _varlen, packed_attention
from flagtriton_server.engines.torch_packed.prefix_attention import AttentionSpec, attention_behind
from flagtriton_server.packing.ragged import token_indices
from tests.unit.server.engines.torch_packed.test_attention import CPU, SPECS, Heads, assert_close, heads, plain

SHARED_SPECS = {
    **{name: spec for name, spec in SPECS.items() if spec.causal and spec.window in (None, 4096)},
    "causal scale": AttentionSpec(causal=True, scale=0.9),
    "causal softcap without a scale": AttentionSpec(causal=True, softcap=0.5),
}
every_spec = pytest.mark.parametrize("spec", SHARED_SPECS.values(), ids=SHARED_SPECS)

LENGTHS = [40, 17, 16, 16, 3, 20, 9, 1, 33, 7]
PARENTS = [-1, 0, 0, 0, 0, -1, 5, 5, -1, -1]
"""A prefix of 40 tokens before four texts, one of 20 before two, and two texts by themselves."""


def behind(
    given: Heads, lengths: list[int], parents: list[int], spec: AttentionSpec, device: torch.device = CPU
) -> Tensor:
    return packed_attention(*given, PackedTexts(np.array(lengths), device, np.array(parents)), spec)


def in_full(given: Heads, lengths: list[int], parents: list[int], spec: AttentionSpec) -> Tensor:
    """Return `[N, H, d]`: each text with its parent's tokens before its own, by the definition, and its own rows."""
    starts, counts = np.cumsum(lengths) - lengths, np.array(lengths)
    answers = []
    for text, parent in enumerate(parents):
        runs = np.array([text] if parent < 0 else [parent, text])
        tokens = torch.from_numpy(token_indices(starts[runs], counts[runs]))
        whole = Heads(*(tensor[tokens] for tensor in given))
        answers.append(plain(whole, [len(tokens)], spec)[-lengths[text] :])
    return torch.cat(answers)


@every_spec
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_a_text_behind_a_prefix_is_answered_as_if_it_had_the_tokens_itself(spec: AttentionSpec, shared: int) -> None:
    given = heads(sum(LENGTHS), shared=shared)
    assert_close(behind(given, LENGTHS, PARENTS, spec), in_full(given, LENGTHS, PARENTS, spec))


def test_what_a_text_has_before_it_shows_in_its_answer() -> None:
    given, spec = heads(sum(LENGTHS)), AttentionSpec(causal=True)
    alone = packed_attention(*given, PackedTexts(np.array(LENGTHS), CPU), spec)
    changed = (behind(given, LENGTHS, PARENTS, spec) - alone).abs().amax(dim=(1, 2)).split(LENGTHS)
    assert [bool(text.max() > 0.1) for text in changed] == [parent >= 0 for parent in PARENTS]


@every_spec
def test_more_queries_than_are_computed_at_once_are_all_computed(spec: AttentionSpec) -> None:
    lengths, parents = [20, 300], [-1, 0]  # padded to 320: 256 queries, then 64
    given = heads(sum(lengths))
    assert_close(behind(given, lengths, parents, spec), in_full(given, lengths, parents, spec))


@every_spec
def test_a_prefix_longer_than_is_computed_at_once_is_seen_whole(spec: AttentionSpec) -> None:
    lengths, parents = [300, 5, 2], [-1, 0, 0]
    given = heads(sum(lengths), shared=2)
    assert_close(behind(given, lengths, parents, spec), in_full(given, lengths, parents, spec))


@every_spec
@pytest.mark.parametrize("far", ["prefix", "own tokens"])
def test_scores_of_which_one_side_is_out_of_all_proportion_give_that_sides_values(
    spec: AttentionSpec, far: str
) -> None:
    lengths, parents = [4, 16], [-1, 0]
    given = heads(20)
    raised = slice(0, 4) if far == "prefix" else slice(4, 20)
    given.key[raised] = 100 * given.query[4:].mean(dim=0)  # e to the power of hundreds
    answers = behind(given, lengths, parents, spec)
    assert answers.isfinite().all()
    assert_close(answers, in_full(given, lengths, parents, spec))


@every_spec
def test_several_texts_of_one_length_behind_one_prefix_need_no_padding(spec: AttentionSpec) -> None:
    lengths, parents = [16, 16, 16], [-1, 0, 0]
    given = heads(48, shared=2)
    assert_close(behind(given, lengths, parents, spec), in_full(given, lengths, parents, spec))


@every_spec
def test_a_prefix_need_not_stand_right_before_its_texts(spec: AttentionSpec) -> None:
    lengths, parents = [5, 8, 6, 6], [-1, -1, 1, 0]
    given = heads(25)
    assert_close(behind(given, lengths, parents, spec), in_full(given, lengths, parents, spec))


@every_spec
def test_what_a_batch_is_filled_up_with_is_seen_by_no_text(spec: AttentionSpec) -> None:
    lengths, parents = [9, 17, 3], [-1, 0, 0]
    given = heads(48)
    spoiled = Heads(*(torch.cat([tensor[:29], torch.full_like(tensor[29:], torch.nan)]) for tensor in given))
    answers = behind(spoiled, lengths, parents, spec)
    assert_close(answers[:29], in_full(Heads(*(tensor[:29] for tensor in given)), lengths, parents, spec))
    assert not answers[29:].any()


@every_spec
def test_in_bfloat16_answers_are_those_of_float32_but_for_rounding(spec: AttentionSpec) -> None:
    # bfloat16 has 8 bits, values are around 1 and seldom beyond 4: 4 / 256 is 0.016
    given = Heads(*(tensor.bfloat16() for tensor in heads(sum(LENGTHS), shared=2)))
    answers = behind(given, LENGTHS, PARENTS, spec)
    assert answers.dtype == torch.bfloat16
    expected = in_full(Heads(*(tensor.float() for tensor in given)), LENGTHS, PARENTS, spec)
    assert_close(answers, expected, tolerance=0.04)


def test_equal_scores_weigh_prefix_and_own_tokens_by_their_number() -> None:
    # 3 tokens of value 1 before, 1 of value 5 itself: (3 * 1 + 5) / 4 is 2
    prefix = (torch.zeros(3, 1, 2), torch.ones(3, 1, 2))
    nothing = torch.zeros(1, 1, 1, 2)
    mixed = attention_behind(prefix, nothing, nothing, torch.full((1, 1, 1, 2), 5.0), AttentionSpec(causal=True))
    assert mixed.tolist() == [[[[2.0, 2.0]]]]


@every_spec
def test_an_answer_is_in_the_querys_dtype(spec: AttentionSpec) -> None:
    prefix, own = torch.ones(3, 1, 2, dtype=torch.bfloat16), torch.ones(1, 1, 4, 2, dtype=torch.bfloat16)
    assert attention_behind((prefix, prefix), own, own, own, spec).dtype == torch.bfloat16


def test_parents_that_are_all_none_change_nothing() -> None:
    given, spec = heads(sum(LENGTHS)), AttentionSpec(causal=True)
    answers = behind(given, LENGTHS, [-1] * len(LENGTHS), spec)
    assert_close(answers, packed_attention(*given, PackedTexts(np.array(LENGTHS), CPU), spec), tolerance=0)


def test_a_text_sees_its_parents_tokens_and_then_its_own() -> None:
    # tokens 0 to 2 are the prefix; 3 and 4 one text, 5 another, and 6 and 7 stand alone
    tokens, begins, most = PackedTexts(np.array([3, 2, 1, 2]), CPU, np.array([-1, 0, 0, -1])).seen
    assert tokens.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7]
    assert (begins.tolist(), begins.dtype) == ([0, 3, 8, 12, 14], torch.int32)
    assert most == 5


def test_texts_of_one_length_behind_different_prefixes_are_different_groups() -> None:
    texts = PackedTexts(np.array([4, 3, 3, 5, 3, 3]), CPU, np.array([-1, 0, 0, -1, 3, -1]))
    # 4 tokens of the first prefix, 5 of the second, which begins behind 4 + 3 + 3
    assert [(group.tokens, group.before) for group in texts.groups] == [
        (slice(0, 4), None),
        (slice(4, 10), slice(0, 4)),
        (slice(10, 15), None),
        (slice(15, 18), slice(10, 15)),
        (slice(18, 21), None),
    ]


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, begins: Tensor, seen: Tensor, longest: int, most: int, **named: Any
) -> Tensor:
    """Return what torch's kernel of this name does on CUDA: causal masks are aligned at each text's last token."""
    assert (longest, most) == (begins.diff().max(), seen.diff().max())
    assert (named["window_size"], named["enable_gqa"]) == ((-1, 0), key.shape[1] != query.shape[1])
    spec, answers = AttentionSpec(causal=True, scale=named["scale"]), []
    edges = zip(pairwise(begins.tolist()), pairwise(seen.tolist()), strict=True)
    for (start, stop), (first, last) in edges:
        before = query.new_zeros(last - first - (stop - start), *query.shape[1:])
        whole = Heads(torch.cat([before, query[start:stop]]), key[first:last], value[first:last])
        answers.append(plain(whole, [last - first], spec)[len(before) :])
    return torch.cat(answers)


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("spec", [AttentionSpec(causal=True), AttentionSpec(causal=True, scale=0.9)], ids=str)
def test_the_kernel_for_varying_lengths_is_given_the_tokens_that_each_text_sees(
    spec: AttentionSpec, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    given = heads(sum(LENGTHS) + 3, shared=shared)  # three rows that fill the batch up
    answers = _varlen(*given, PackedTexts(np.array(LENGTHS), CPU, np.array(PARENTS)), spec)
    assert_close(answers[:-3], in_full(Heads(*(tensor[:-3] for tensor in given)), LENGTHS, PARENTS, spec))
    assert not answers[-3:].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shared", [1, 2])
@every_spec
def test_the_kernel_for_varying_lengths_agrees_with_the_grouped_ones(spec: AttentionSpec, shared: int) -> None:
    cuda = torch.device("cuda")
    half = Heads(*(tensor.half().to(cuda) for tensor in heads(sum(LENGTHS), shared=shared)))
    single = Heads(*(tensor.float() for tensor in half))  # in float32 texts are grouped on CUDA too
    # fp16 has 11 bits, values are below 4: 4 / 2048 is 0.002
    on_cuda = behind(half, LENGTHS, PARENTS, spec, cuda)
    assert_close(on_cuda, behind(single, LENGTHS, PARENTS, spec, cuda), tolerance=0.01)
    on_cpu = Heads(*(tensor.cpu() for tensor in single))
    assert_close(on_cuda.cpu(), in_full(on_cpu, LENGTHS, PARENTS, spec), tolerance=0.01)
