# SPDX-License-Identifier: Apache-2.0
"""The texts of several requests, end to end, and the plan of their forward passes. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.tensors import NO_TOKEN
from flagtriton_server.packing.prefix_sharing import Segments, find_prefix_groups, plan_segments, whole_texts
from flagtriton_server.packing.ragged import plan_micro_batches, token_indices

__all__ = ["RaggedTexts"]


@dataclass(frozen=True)
class RaggedTexts:
    """The texts of all requests, end to end.

    Attributes:
        input_ids: `[N]` token ids.
        lengths: `[B]` number of tokens of each text.
        row_counts: number of texts of each request.
    """

    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    row_counts: list[int]

    @classmethod
    def of(cls, requests: Sequence[NDArray[np.int32]]) -> RaggedTexts:
        """Return the texts of several requests, each with `[B, T]` token ids; `NO_TOKEN` follows a row's tokens."""
        own = [ids != NO_TOKEN for ids in requests]
        tokens = np.concatenate([ids[mask] for ids, mask in zip(requests, own, strict=True)])
        lengths = np.concatenate([mask.sum(axis=1) for mask in own])
        return cls(tokens.astype(np.int64), lengths, [len(ids) for ids in requests])

    def segments(
        self,
        token_budget: int,
        *,
        max_shared_length: int = 0,
        most_shared: NDArray[np.int64] | None = None,
        padded: bool = False,
    ) -> Iterable[Segments]:
        """Return the segments of each forward pass.

        Args:
            token_budget: largest number of tokens of one pass.
            max_shared_length: largest number of tokens of a text that may share a prefix; 0 for no sharing.
            most_shared: `[B]` largest number of tokens of each text that may belong to a prefix; None for no limit.
            padded: each text costs as much as the longest text of its micro-batch.
        """
        prefix_groups = []
        if max_shared_length:
            prefix_groups = find_prefix_groups(self.input_ids, self.lengths, max_shared_length, most=most_shared)
        if prefix_groups:
            return plan_segments(self.lengths, prefix_groups, token_budget)
        starts = np.cumsum(self.lengths) - self.lengths
        batches = plan_micro_batches(self.lengths, token_budget, padded=padded)
        return [whole_texts(batch, starts, self.lengths) for batch in batches]

    def tokens(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the `[n]` token ids of some texts, end to end in the order of `batch`."""
        starts = np.cumsum(self.lengths) - self.lengths
        return self.input_ids[token_indices(starts[batch], self.lengths[batch])]

    def types(self, starts: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return `[N]` token types: 1 from the `[B]` index on where the second part of each text begins, else 0."""
        positions = token_indices(np.zeros_like(self.lengths), self.lengths)
        return (positions >= np.repeat(starts, self.lengths)).astype(np.int64)

    def by_request(self, per_text: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Split `[B]` numbers into those of each request."""
        return np.split(per_text, np.cumsum(self.row_counts)[:-1])
