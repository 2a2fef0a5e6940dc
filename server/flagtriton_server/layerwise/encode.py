# SPDX-License-Identifier: Apache-2.0
"""From rows of token ids to vectors of their last tokens at several layers, no deeper than the requests ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton_server.engines.torch_packed.attention import PackedTexts
from flagtriton_server.errors import RequestError
from flagtriton_server.layerwise.decoder import rotation
from flagtriton_server.layerwise.loading import LoadedDecoder
from flagtriton_server.layerwise.spec import LayerwiseSpec
from flagtriton_server.layerwise.token_compression import Parts, merged
from flagtriton_server.packing.micro_batches import RaggedTexts
from flagtriton_server.packing.prefix_sharing import Segments
from flagtriton_server.packing.ragged import lengths_before, packed_length, token_counts, token_indices

__all__ = ["Depth", "LayerwiseRequest", "check_parts", "encode_layers", "trial_vectors"]

_TRIAL_TOKENS = 13


@dataclass(frozen=True)
class Depth:
    """Number of layers and token compression of a request's rows. Requests of equal depth share forward passes.

    Attributes:
        deepest: number of layers that run.
        ratio: number of passage tokens that become one; 1 leaves them unchanged.
        merging_layers: layers before which tokens are merged.
    """

    deepest: int
    ratio: int = 1
    merging_layers: tuple[int, ...] = ()

    @classmethod
    def of(cls, layers: Sequence[int], options: RerankOptions) -> Depth:
        """Return the depth of a request for scores of some layers. All ways to compress nothing give the same depth."""
        deepest = max(layers)
        merging = tuple(sorted({layer for layer in options.compress_layers if 0 < layer < deepest}))
        if options.compress_ratio == 1 or not merging:
            return cls(deepest)
        return cls(deepest, options.compress_ratio, merging)


@dataclass(frozen=True)
class LayerwiseRequest:
    """The rows of one request.

    Attributes:
        input_ids: `[P, T]`, `NO_TOKEN` after a row's tokens.
        passage_starts: `[P, 1]` index of the first token of each row's passage.
        passage_ends: `[P, 1]` index of the first token after the passage.
        layers: the K layers whose vectors are requested, in ascending order.
        depth: number of layers and token compression of the rows.
    """

    input_ids: NDArray[np.int32]
    passage_starts: NDArray[np.int32]
    passage_ends: NDArray[np.int32]
    layers: tuple[int, ...]
    depth: Depth

    @property
    def rows(self) -> int:
        """P, the number of rows."""
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """Number of tokens of all rows together."""
        return int(token_counts(self.input_ids).sum())

    @classmethod
    def of(
        cls,
        spec: LayerwiseSpec,
        input_ids: NDArray[np.int32],
        passage_starts: NDArray[np.int32],
        passage_ends: NDArray[np.int32],
        options: RerankOptions,
    ) -> LayerwiseRequest:
        """Return a request with the layers and the depth that its options ask for.

        Raises:
            RequestError: the options ask for a layer without a head.
        """
        layers = spec.chosen_layers(options.cutoff_layers)
        return cls(input_ids, passage_starts, passage_ends, layers, Depth.of(layers, options))


def check_parts(input_ids: NDArray[np.int32], starts: NDArray[np.int32], ends: NDArray[np.int32]) -> None:
    """Reject passages that lie outside their rows.

    Raises:
        RequestError: a passage lies outside its row; the message names the first such row.
    """
    lengths = token_counts(input_ids)[:, None]
    wrong = np.flatnonzero((starts < 0) | (starts > ends) | (ends > lengths))
    if len(wrong):
        row = int(wrong[0])
        raise RequestError(
            f"row {row} has {lengths[row, 0]} tokens, but its passage is said to be tokens {starts[row, 0]} to "
            f"{ends[row, 0]}"
        )


@torch.inference_mode()
def encode_layers(decoder: LoadedDecoder, requests: Sequence[LayerwiseRequest], token_budget: int) -> list[Tensor]:
    """Return every request's vectors, `[P, K, D]` on the processor in the decoder's dtype, after the last RMSNorm.

    Requests of equal depth go through the network together, even if they ask for different layers.

    Args:
        decoder: the network.
        requests: at least one.
        token_budget: tokens of one forward pass.
    """
    answers: dict[int, Tensor] = {}
    for depth in dict.fromkeys(request.depth for request in requests):
        members = [place for place, request in enumerate(requests) if request.depth == depth]
        wanted = sorted({layer for place in members for layer in requests[place].layers})
        states = _at_depth(decoder, [requests[place] for place in members], depth, wanted, token_budget)
        parts = states.cpu().split([len(requests[place].input_ids) for place in members])
        for place, part in zip(members, parts, strict=True):
            answers[place] = part[:, [wanted.index(layer) for layer in requests[place].layers]]
    return [answers[place] for place in range(len(requests))]


def trial_vectors(decoder: LoadedDecoder) -> Tensor:
    """Return `[1, K, D]` for a short text at every layer that has a head."""
    text = np.random.default_rng(0).integers(0, decoder.spec.vocab_size, (1, _TRIAL_TOKENS)).astype(np.int32)
    layers = decoder.spec.head_layers
    nowhere = np.full((1, 1), _TRIAL_TOKENS, dtype=np.int32)
    request = LayerwiseRequest(text, nowhere, nowhere, tuple(layers), Depth(max(layers)))
    (vectors,) = encode_layers(decoder, [request], _TRIAL_TOKENS)
    return vectors


def _at_depth(
    decoder: LoadedDecoder, requests: Sequence[LayerwiseRequest], depth: Depth, layers: list[int], token_budget: int
) -> Tensor:
    """Return `[B, K, D]` for the rows of all these requests."""
    texts = RaggedTexts.of([request.input_ids for request in requests])
    starts, ends = (
        np.concatenate(of).reshape(-1).astype(np.int64)
        for of in zip(*[(request.passage_starts, request.passage_ends) for request in requests], strict=True)
    )
    parts = Parts(starts, ends - starts, texts.lengths - ends)
    shape = len(texts.lengths), len(layers), decoder.spec.hidden_size
    states = torch.zeros(shape, dtype=decoder.precision.computed, device=decoder.device)
    most_shared = parts.before if depth.ratio > 1 else None  # tokens that will be merged are never shared
    for batch in texts.segments(token_budget, max_shared_length=decoder.max_shared_length, most_shared=most_shared):
        last = _through(decoder, texts, batch, parts.of_segments(batch), depth, layers)
        own = np.flatnonzero(batch.rows >= 0)  # the others are prefixes
        rows, segments = (torch.from_numpy(index).to(decoder.device) for index in (batch.rows[own], own))
        states[rows] = last[segments]
    return states


def _through(
    decoder: LoadedDecoder,
    texts: RaggedTexts,
    batch: Segments,
    parts: Parts,
    depth: Depth,
    layers: list[int],
) -> Tensor:
    """Return `[S, K, D]`, the vectors of the last tokens of S segments."""
    device, module = decoder.device, decoder.module
    lengths, parents = batch.lengths, batch.parents
    ids = torch.from_numpy(texts.input_ids[token_indices(batch.starts, lengths)]).to(device)
    x = module.embedded(_filled_up(ids))
    decoder.on_forward_pass(len(ids), len(x))
    packed, angles = _laid_out(decoder, lengths, parents, len(x))
    captured = []
    for layer in range(depth.deepest + 1):
        if layer in layers:
            last = torch.from_numpy(np.cumsum(lengths) - 1).to(device)
            captured.append(module.norm(x[last]))
        if layer == depth.deepest:
            break
        if layer in depth.merging_layers:
            x = _filled_up(merged(x[: int(lengths.sum())], parts, depth.ratio))
            parts = parts.compressed(depth.ratio)
            lengths = parts.lengths
            packed, angles = _laid_out(decoder, lengths, parents, len(x))
        x = module.through(layer, x, angles, packed)
    return torch.stack(captured, dim=1)


def _laid_out(
    decoder: LoadedDecoder, lengths: NDArray[np.int64], parents: NDArray[np.int64], filled: int
) -> tuple[PackedTexts, tuple[Tensor, Tensor]]:
    """Return the packed segments and their tokens' angles, for `filled` rows of which the last belong to no segment."""
    positions = np.zeros(filled, dtype=np.int64)
    positions[: int(lengths.sum())] = token_indices(lengths_before(parents, lengths), lengths)
    packed = PackedTexts(lengths, decoder.device, parents if (parents >= 0).any() else None)
    return packed, rotation(torch.from_numpy(positions).to(decoder.device), decoder.spec)


def _filled_up(rows: Tensor) -> Tensor:
    """Return rows with rows of zeros after them, up to a number of rows for which a processor has kernels."""
    if rows.device.type == "cuda":
        return rows
    filled = rows.new_zeros(packed_length(len(rows)), *rows.shape[1:])
    filled[: len(rows)] = rows
    return filled
