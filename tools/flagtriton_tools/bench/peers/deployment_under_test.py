# SPDX-License-Identifier: Apache-2.0
"""A deployment of ours in a benchmark, behind the SDK as its users have it."""

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
    """Where a deployment is served.

    Attributes:
        url: what the SDK is given.
        http_url: where the server tells its statistics; None where that is not known.
        server_pid: the server's process, where it runs on this machine.
    """

    model: str
    url: str
    http_url: str | None = None
    server_pid: int | None = None


class Ours:
    """A contestant: our deployment.

    Args:
        place: where it is served.
        texts: what is embedded.
        pooling_method: the deployment's.
        examples: the texts are queries behind them, for a deployment that takes examples; None embeds passages.
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

    def repeat(self, count: int) -> Any:  # noqa: ANN401 - what the deployment's class returns
        """Embed the texts again and again, so many in one call; return the vectors."""
        return self._encode(list(islice(cycle(self._texts), count)))

    def answered(self) -> int:
        """Return how many texts the deployment has answered since it was loaded."""
        reply = urllib3.request("GET", f"{self.place.http_url}/v2/models/{self.place.model}/stats")
        return int(reply.json()["model_stats"][0]["inference_count"])
