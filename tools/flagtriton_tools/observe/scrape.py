# SPDX-License-Identifier: Apache-2.0
"""Reads a server's metrics at one moment."""

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
    """Content of a metrics port.

    Attributes:
        at: monotonic time of the scrape, seconds.
        samples: series by metric name, each with its labels and value.
    """

    at: float
    samples: Mapping[str, list[tuple[dict[str, str], float]]] = field(repr=False)

    @classmethod
    def parsed(cls, text: str, at: float) -> Scrape:
        """Return the metrics in a reply.

        Raises:
            ValueError: the text is not in the text format of Prometheus.
        """
        samples: defaultdict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name].append((sample.labels, sample.value))
        return cls(at, dict(samples))

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series that have these labels; 0 if there are none."""
        return sum(value for _, value in self.series(name, **labels))

    def series(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yield a metric's series that have these labels. Each comes with all of its labels."""
        for own, value in self.samples.get(name, ()):
            if labels.items() <= own.items():
                yield own, value


def scrape(url: str) -> Scrape:
    """Return the present metrics of a server.

    Args:
        url: address of its metrics port, for example `http://localhost:8002`.

    Raises:
        ToolError: the port does not answer, or its reply has no metrics.
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
