# SPDX-License-Identifier: Apache-2.0
"""Checks for nan and infinity: no result with them is sent, and no deployment that yields them at load is served."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton_server.errors import NotFiniteError, not_finite

__all__ = ["all_finite", "check_answers", "check_finite", "check_loaded", "finite_norms"]


def all_finite(values: Tensor) -> bool:
    """Return whether no value is nan or an infinity, in one pass and without a mask of the tensor's size.

    A weight that is kept elsewhere until it is needed is on the `meta` device. It passes, because it has no values.
    """
    if not values.numel() or values.is_meta:
        return True
    least, greatest = torch.aminmax(values.detach())  # both are nan if any value is
    return math.isfinite(least) and math.isfinite(greatest)


def check_finite(values: Tensor | NDArray[np.floating[Any]], what: str) -> None:
    """Raise if a result contains nan or an infinity.

    Args:
        values: numbers of any shape and floating-point dtype.
        what: plural noun phrase for the values, for the message.

    Raises:
        NotFiniteError: a value is not finite; the message contains `what`.
    """
    finite = all_finite(values) if isinstance(values, Tensor) else bool(np.isfinite(values).all())
    if not finite:
        raise NotFiniteError(what)


def finite_norms(vectors: Tensor, what: str) -> Tensor:
    """Return the L2 norms `[N, 1]` of vectors `[N, D]`, at least 1e-12.

    A norm is finite if all components are finite and their squares have a finite sum. So a check of the norms before
    the division is enough. The division itself would turn a number over an infinity into 0.

    Raises:
        NotFiniteError: a norm is not finite.
    """
    norms = vectors.norm(p=2, dim=-1, keepdim=True)
    check_finite(norms, what)
    return norms.clamp_min(1e-12)


def check_loaded(checkpoint: str, weights: Iterable[tuple[str, Tensor]], precision: str) -> None:
    """Raise for weights that are not finite, in the checkpoint's files or after they are rounded to fp16.

    Args:
        checkpoint: name for the message.
        weights: names and weights, already rounded.
        precision: precision of the deployment.

    Raises:
        ValueError: a weight is not finite; the message has the name of the first one, and advice.
    """
    found = next(((name, weight) for name, weight in weights if not all_finite(weight)), None)
    if found is None:
        return
    name, weight = found
    if bool(weight.isnan().any()):  # rounding makes infinities only
        raise ValueError(
            f"{checkpoint}: its weight {name} holds nan; no precision helps: download it again, or save it from a "
            "state in which its numbers are finite"
        )
    raise ValueError(f"{checkpoint}: {not_finite(f'values of its weight {name}', precision)}")


def check_answers(checkpoint: str, answers: Tensor, precision: str) -> None:
    """Raise if the hidden states of the texts that are tried at load are not finite.

    Args:
        checkpoint: name for the message.
        answers: the hidden states.
        precision: precision of the deployment.

    Raises:
        ValueError: a hidden state is not finite; the message has advice.
    """
    if not all_finite(answers):
        raise ValueError(f"{checkpoint}: {not_finite('hidden states of a short text', precision)}")
