# SPDX-License-Identifier: Apache-2.0
"""A flagtriton deployment in a benchmark, called through the SDK like any user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import urllib3

from flagtriton import FlagAutoModel
from flagtriton_tools.bench.peers.callers import fan_out, seconds_of
from flagtriton_tools.bench.peers.memory import tree_peaks_mb

__all__ = ["Ours", "Place"]


@dataclass(frozen=True)
class Place:
    """Address of a deployment.

    Attributes:
        url: URL for the SDK.
        http_url: URL of the server's statistics; None if it is unknown.
        server_pid: process id of the server; None if it runs on another machine.
    """

    model: str
    url: str
    http_url: str | None = None
    server_pid: int | None = None


class Ours:
    """The contestant flagtriton.

    Args:
        place: address of the deployment.
        texts: texts to embed.
        pooling_method: pooling method of the deployment.
        examples: few-shot examples before the texts, which are then queries; None embeds the texts as passages.
    """

    serves = True

    def __init__(
        self,
        place: Place,
        texts: Sequence[str],
        pooling_method: str,
        examples: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        self.name = "flagtriton"
        self.place = place
        self._texts = list(texts)
        chosen: dict[str, Any] = {} if examples is None else {"examples_for_task": examples}
        self._model: Any = FlagAutoModel.from_finetuned(
            place.model, url=place.url, pooling_method=pooling_method, show_progress=False, **chosen
        )
        self._encode = self._model.encode if examples is None else self._model.encode_queries
        self._encode(self._texts[:256])

    def bulk(self) -> float:
        return seconds_of(self._encode, self._texts)

    def query(self, text: str, repeats: int) -> list[float]:
        return [seconds_of(self._encode, [text]) for _ in range(repeats)]

    def callers(self, count: int) -> tuple[float, list[float]]:
        return fan_out(lambda text: self._encode([text]), self._texts, count)

    def peak_mb(self) -> dict[str, float]:
        return {} if self.place.server_pid is None else tree_peaks_mb(self.place.server_pid)

    def repeat(self, count: int) -> Any:  # noqa: ANN401 - the result type of the deployment's class
        """Embed `count` texts in one call, repeating the texts as needed; return the vectors."""
        return self._encode(list(islice(cycle(self._texts), count)))

    def answered(self) -> int:
        """Return the number of texts that the deployment has answered since it was loaded."""
        reply = urllib3.request("GET", f"{self.place.http_url}/v2/models/{self.place.model}/stats")
        return int(reply.json()["model_stats"][0]["inference_count"])
