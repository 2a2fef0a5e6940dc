# SPDX-License-Identifier: Apache-2.0
"""A server's metrics at one moment."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from flagtriton_tools.errors import ToolError

__all__ = ["Scrape", "scrape"]

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Scrape:
    """What a metrics port said.

    Attributes:
        at: when, by the monotonic clock, seconds.
        samples: by name, each with its labels.
    """

    at: float
    samples: Mapping[str, list[tuple[dict[str, str], float]]] = field(repr=False)

    @classmethod
    def parsed(cls, text: str, at: float) -> Scrape:
        """Return what stands in an answer.

        Raises:
            ValueError: it is not in Prometheus' text format.
        """
        samples: defaultdict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name].append((sample.labels, sample.value))
        return cls(at, dict(samples))

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the series of a name that have these labels; 0 if there is none."""
        return sum(value for _, value in self.series(name, **labels))

    def series(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yield the series of a name that have these labels, with all of their own."""
        for own, value in self.samples.get(name, ()):
            if labels.items() <= own.items():
                yield own, value


def scrape(url: str) -> Scrape:
    """Return what a server says of itself now.

    Args:
        url: of its metrics port, e.g. `http://localhost:8002`.

    Raises:
        ToolError: it does not answer, or something else does.
    """
    address = f"{url.rstrip('/')}/metrics"
    if not address.startswith(("http://", "https://")):
        raise ToolError(f"--url is {url}; expected the metrics port's address, such as http://localhost:8002")
    try:
        with urlopen(address, timeout=_TIMEOUT_S) as answer:
            text = answer.read().decode()
        return Scrape.parsed(text, time.monotonic())
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ToolError(f"{address}: {reason}; is a server running, and is that its --metrics-port?") from error
    except ValueError as error:
        raise ToolError(f"{address} does not answer with metrics: {error}") from error
