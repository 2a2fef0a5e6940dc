# SPDX-License-Identifier: Apache-2.0
"""Whether a soak was passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.robustness.soak.samples import JUDGED

__all__ = ["MOST_GROWTH", "complaints"]

MOST_GROWTH = 0.02


def complaints(found: Mapping[str, Any], most_growth: float = MOST_GROWTH) -> list[str]:
    """Return a sentence for all that must not be, from a soak's summary."""
    said = [f"{count} wrong answers to {name}" for name, count in sorted(Counter(found["wrong"]).items())]
    said += [f"{count} times: {error}" for error, count in Counter(found["errors"]).most_common(10)]
    for name in JUDGED:
        grown = found["growth"][name]
        if grown > most_growth:
            said.append(f"{name} grew by {grown:.1%}, more than {most_growth:.0%}")
    return said
