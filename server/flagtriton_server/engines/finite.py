# SPDX-License-Identifier: Apache-2.0
"""Numbers that are not finite are never sent, and a deployment that computes them from any text is not served."""

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
    """Return whether no value is nan or an infinity: one pass without a mask of their size.

    Of a weight that lies elsewhere until it is needed, on the `meta` device, nothing is known: it passes.
    """
    if not values.numel() or values.is_meta:
        return True
    least, greatest = torch.aminmax(values.detach())  # both nan where any value is
    return math.isfinite(least) and math.isfinite(greatest)


def check_finite(values: Tensor | NDArray[np.floating[Any]], what: str) -> None:
    """Raise where a result holds a value that is no finite number.

    Args:
        values: of any shape and floating-point dtype.
        what: they are, in the plural, for the message.

    Raises:
        NotFiniteError: names what.
    """
    finite = all_finite(values) if isinstance(values, Tensor) else bool(np.isfinite(values).all())
    if not finite:
        raise NotFiniteError(what)


def finite_norms(vectors: Tensor, what: str) -> Tensor:
    """Return the L2 norms `[N, 1]` of vectors `[N, D]`, at least 1e-12.

    A norm is finite if all components are and their squares have a finite sum. So it is all that needs checking before
    the division, which would make 0 of a number over an infinity.

    Raises:
        NotFiniteError: a norm is not finite.
    """
    norms = vectors.norm(p=2, dim=-1, keepdim=True)
    check_finite(norms, what)
    return norms.clamp_min(1e-12)


def check_loaded(checkpoint: str, weights: Iterable[tuple[str, Tensor]], precision: str) -> None:
    """Raise for weights that are not finite: in the checkpoint's own files, or as fp16 holds them.

    Args:
        checkpoint: for the message.
        weights: by name, rounded already.
        precision: of the deployment.

    Raises:
        ValueError: names the first such weight and what to do.
    """
    found = next(((name, weight) for name, weight in weights if not all_finite(weight)), None)
    if found is None:
        return
    name, weight = found
    if bool(weight.isnan().any()):  # rounding makes infinities alone
        raise ValueError(
            f"{checkpoint}: its weight {name} holds nan; no precision helps: download it again, or save it from a "
            "state in which its numbers are finite"
        )
    raise ValueError(f"{checkpoint}: {not_finite(f'values of its weight {name}', precision)}")


def check_answers(checkpoint: str, answers: Tensor, precision: str) -> None:
    """Raise where the hidden states of the texts that are tried at load are not finite.

    Args:
        checkpoint: for the message.
        answers: the hidden states.
        precision: of the deployment.

    Raises:
        ValueError: says what to do.
    """
    if not all_finite(answers):
        raise ValueError(f"{checkpoint}: {not_finite('hidden states of a short text', precision)}")
