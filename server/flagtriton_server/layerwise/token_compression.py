# SPDX-License-Identifier: Apache-2.0
"""Token compression: inside a network, neighbouring tokens of a passage become their mean; query and prompt stay.

It is that of the lightweight reranker, docs/reference-behaviour.md#token-compression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton_server.packing.prefix_sharing import Segments
from flagtriton_server.packing.ragged import lengths_before, token_indices

__all__ = ["Parts", "merged"]


@dataclass(frozen=True)
class Parts:
    """The three parts of each of S texts that lie end to end: query, passage, prompt.

    Attributes:
        before: `[S]` number of tokens before the passage.
        passage: `[S]` number of tokens of the passage; may be 0.
        behind: `[S]` number of tokens after the passage.
    """

    before: NDArray[np.int64]
    passage: NDArray[np.int64]
    behind: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[S]` tokens of each text."""
        lengths: NDArray[np.int64] = self.before + self.passage + self.behind
        return lengths

    def of_segments(self, segments: Segments) -> Parts:
        """Return the parts of S segments. A text's segment begins after its prefix; a prefix is all `before`."""
        own, shared = segments.rows >= 0, lengths_before(segments.parents, segments.lengths)
        before, passage, behind = (part[segments.rows] for part in (self.before, self.passage, self.behind))
        return Parts(
            np.where(own, before - shared, segments.lengths), np.where(own, passage, 0), np.where(own, behind, 0)
        )

    def compressed(self, ratio: int) -> Parts:
        """Return the parts of the compressed texts: each passage has one token for every `ratio`, rounded up."""
        return Parts(self.before, -(-self.passage // ratio), self.behind)

    def targets(self, ratio: int) -> NDArray[np.int64]:
        """Return `[N]`: the index of each token's target among the tokens of the compressed texts."""
        lengths, after = self.lengths, self.compressed(ratio).lengths
        places = token_indices(np.zeros_like(lengths), lengths)  # [N] place of each token in its text
        before, passage = np.repeat(self.before, lengths), np.repeat(self.passage, lengths)
        passed: NDArray[np.int64] = np.clip(places - before, 0, passage)  # tokens of the passage before this one
        inside = passed < passage
        become = np.where(inside, passed // ratio, -(-passed // ratio))
        starts = np.repeat(np.cumsum(after) - after, lengths)
        return starts + places - passed + become


def merged(x: Tensor, parts: Parts, ratio: int) -> Tensor:
    """Return the token vectors of the compressed texts, `[N', D]`. A merged vector is a mean, summed in float32.

    Args:
        x: `[N, D]` token vectors of the texts.
        parts: parts of each text.
        ratio: number of tokens that become one; the last tokens of a passage may be fewer.
    """
    targets = parts.targets(ratio)
    count = int(parts.compressed(ratio).lengths.sum())
    counts = torch.from_numpy(np.bincount(targets, minlength=count)).to(x.device)
    sums = x.new_zeros(count, x.shape[1], dtype=torch.float32)
    sums.index_add_(0, torch.from_numpy(targets).to(x.device), x.float())
    return (sums / counts[:, None]).to(x.dtype)
