# SPDX-License-Identifier: Apache-2.0
"""The transfer of hidden states from the encoder to the next step, in the dtype in which the model computes.

A deployment's precision may be `auto`, so its `config.pbtxt` cannot name the dtype. NumPy has no bfloat16. So the
vectors cross as bytes, and both ends derive the dtype from the same settings on the same machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton_server.errors import RequestError

__all__ = ["from_bytes", "to_bytes"]


def to_bytes(states: Tensor) -> NDArray[np.uint8]:
    """Return `[B, R, D * itemsize]` for hidden states `[B, R, D]` on the processor, as a view of their memory."""
    viewed: NDArray[np.uint8] = states.contiguous().view(torch.uint8).numpy()
    return viewed


def from_bytes(array: NDArray[np.uint8], lengths: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Return `[N, D]` hidden states, one row for each of N tokens.

    Args:
        array: `[B, R, D * itemsize]`, the rows of its B texts end to end.
        lengths: `[B]` rows of each text; N in total.
        dtype: dtype in which they were computed.

    Raises:
        RequestError: the shape does not match these rows.
    """
    rows, count = int(lengths.sum()), len(array)
    if len(lengths) != count or rows > count * array.shape[1] or array.shape[2] % dtype.itemsize or not array.size:
        raise RequestError(
            f"hidden_states is {list(array.shape)} bytes for {rows} rows of {len(lengths)} texts; "
            f"expected [B, R, {dtype.itemsize} * D] with B times R at least the rows"
        )
    return torch.from_numpy(array).view(dtype).flatten(0, 1)[:rows]
