# SPDX-License-Identifier: Apache-2.0
"""`layerwise.token_compression`: means of neighbouring tokens, by hand and against one text after another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flagtriton_server.layerwise.token_compression import Parts, merged
from flagtriton_server.packing.prefix_sharing import Segments

SEEDS = range(60)


def parts(*texts: tuple[int, int, int]) -> Parts:
    """Return the parts of texts, each given as its tokens before, of and behind the passage."""
    before, passage, behind = np.array(texts, dtype=np.int64).reshape(-1, 3).T
    return Parts(before, passage, behind)


def one_by_one(x: torch.Tensor, of: Parts, ratio: int) -> list[torch.Tensor]:
    """Return the vectors of the compressed texts, each group of a passage's tokens averaged by itself, in float64."""
    rows: list[torch.Tensor] = []
    start = 0
    for before, passage, behind in zip(of.before.tolist(), of.passage.tolist(), of.behind.tolist(), strict=True):
        rows += x[start : start + before].double()
        inside = x[start + before : start + before + passage].double()
        rows += [inside[place : place + ratio].mean(dim=0) for place in range(0, passage, ratio)]
        rows += x[start + before + passage : start + before + passage + behind].double()
        start += before + passage + behind
    return rows


def random_parts(seed: int) -> tuple[Parts, int]:
    """Return the parts of up to 8 texts, some of them empty, and a ratio of 1 to 9."""
    generator = np.random.default_rng(seed)
    shape = int(generator.integers(1, 9)), 3
    sizes = generator.integers(0, 24, shape) * (generator.random(shape) < 0.8)
    sizes[:, 0] += 1  # the least that a row has: the token that begins it
    return parts(*map(tuple, sizes.tolist())), int(generator.integers(1, 10))


def column(*values: float) -> torch.Tensor:
    """Return token vectors of one component each."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_neighbours_in_a_passage_become_their_mean() -> None:
    # two of the query stay, (1 + 3) / 2 and (5 + 9) / 2 are the passage's, and one of the prompt stays
    assert merged(column(7, 8, 1, 3, 5, 9, 4), parts((2, 4, 1)), 2).tolist() == [[7], [8], [2], [7], [4]]


def test_what_is_left_at_a_passages_end_is_averaged_by_itself() -> None:
    assert merged(column(1, 2, 3, 6, 100), parts((0, 5, 0)), 4).tolist() == [[3], [100]]


def test_a_ratio_greater_than_the_passage_leaves_one_token_of_it() -> None:
    assert merged(column(1, 2, 6, 9), parts((1, 2, 1)), 9).tolist() == [[1], [4], [9]]


def test_tokens_of_different_texts_are_never_averaged_together() -> None:
    # 3 tokens by 2: the first text's last is alone, though the second's passage comes right behind it
    assert merged(column(2, 4, 9, 10, 20), parts((0, 3, 0), (0, 2, 0)), 2).tolist() == [[3], [9], [15]]


@pytest.mark.parametrize("ratio", [1, 2, 9])
def test_a_text_without_a_passage_stays_as_it_is(ratio: int) -> None:
    x = column(1, 2, 3, 4, 5)
    assert torch.equal(merged(x, parts((2, 0, 1), (1, 0, 1)), ratio), x)


def test_a_text_without_a_prompt_ends_with_its_passage() -> None:
    assert merged(column(1, 2, 4, 5, 7), parts((1, 2, 0), (0, 2, 0)), 2).tolist() == [[1], [3], [6]]


def test_a_ratio_of_one_changes_nothing() -> None:
    of = parts((2, 5, 3), (1, 0, 2), (1, 7, 0))
    x = torch.randn(int(of.lengths.sum()), 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(merged(x, of, 1), x)


def test_the_parts_of_compressed_texts_are_as_long_as_they_become() -> None:
    found = parts((2, 5, 3), (1, 0, 2), (1, 8, 0)).compressed(4)
    assert (found.before.tolist(), found.passage.tolist(), found.behind.tolist()) == ([2, 1, 1], [2, 0, 2], [3, 2, 0])
    assert found.lengths.tolist() == [7, 3, 3]


def test_each_token_goes_where_its_group_does() -> None:
    # query 0 1, passage 2 3 4 in groups of two, prompt 5; then a second text behind those five
    assert parts((2, 3, 1), (1, 2, 1)).targets(2).tolist() == [0, 1, 2, 2, 3, 4, 5, 6, 6, 7]


def test_a_prefix_is_all_query_and_texts_behind_it_have_the_rest() -> None:
    segments = Segments(
        starts=np.zeros(4, dtype=np.int64),
        lengths=np.array([4, 20, 11, 6]),
        parents=np.array([-1, 0, 0, -1]),
        rows=np.array([-1, 2, 1, 0]),
    )
    chosen = parts((1, 2, 3), (4, 5, 6), (7, 8, 9)).of_segments(segments)
    assert chosen.before.tolist() == [4, 3, 0, 1]
    assert chosen.passage.tolist() == [0, 8, 5, 2]
    assert chosen.behind.tolist() == [0, 9, 6, 3]
    assert chosen.lengths.tolist() == segments.lengths.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_random_texts_become_what_one_text_after_another_does(seed: int) -> None:
    of, ratio = random_parts(seed)
    x = torch.randn(int(of.lengths.sum()), 5, generator=torch.Generator().manual_seed(seed))
    expected = torch.stack(one_by_one(x, of, ratio))
    found = merged(x, of, ratio)
    assert found.shape == (int(of.compressed(ratio).lengths.sum()), 5)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_random_texts_have_parts_of_every_kind() -> None:
    cases = [random_parts(seed) for seed in SEEDS]
    assert {ratio for _, ratio in cases} == set(range(1, 10))
    assert all(any((of.passage == 0).any() for of, r in cases if r == ratio) for ratio in (2, 3))
    assert any(((of.behind == 0) & (of.passage > ratio)).any() for of, ratio in cases if ratio > 1)


@pytest.mark.parametrize("seed", SEEDS[:10])
def test_compressing_twice_averages_means(seed: int) -> None:
    of, ratio = random_parts(seed)
    x = torch.randn(int(of.lengths.sum()), 5, generator=torch.Generator().manual_seed(seed))
    once = torch.stack(one_by_one(x, of, ratio)).float()
    expected = torch.stack(one_by_one(once, of.compressed(ratio), ratio))
    found = merged(merged(x, of, ratio), of.compressed(ratio), ratio)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_vectors_keep_their_dtype(dtype: torch.dtype) -> None:
    assert merged(column(1, 2, 3).to(dtype), parts((1, 2, 0)), 2).dtype == dtype


def test_means_of_half_precision_are_summed_in_float32() -> None:
    # bfloat16 has 8 bits: 256 + 1 is 256 in it, so that a sum of eight would be 256 and their mean 32
    values = [256.0, *[1.0] * 7]
    found = merged(column(*values).to(torch.bfloat16), parts((0, 8, 0)), 8)
    assert found.item() == torch.tensor(263 / 8, dtype=torch.bfloat16).item() != 32


def test_what_is_not_merged_is_kept_to_the_bit() -> None:
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    found = merged(x, parts((15, 10, 15)), 3)
    assert torch.equal(found[:15], x[:15])
    assert torch.equal(found[19:], x[25:])
