# SPDX-License-Identifier: Apache-2.0
"""A short form of `python -m tests.robustness.soak`: mixed load through the SDK, and a server that stays as it is."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pytest

from flagtriton import DeploymentWarning
from tests.conftest import Served
from tests.robustness.soak.load import Load
from tests.robustness.soak.picture import draw
from tests.robustness.soak.samples import Sample, growth, samples_of, summary
from tests.robustness.soak.verdict import MOST_GROWTH, complaints

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore::flagtriton.DeploymentWarning")]

UNWATCHED_S, SECONDS, EVERY_S = 12.0, 24.0, 1.5
"""What processes hold rises to what requests that meet take at most, and does so in the first seconds."""


def test_mixed_load_gets_right_answers_and_leaves_the_server_as_it_was(served: Served, tmp_path: Path) -> None:
    load = Load(served, threads=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeploymentWarning)
        load.learn()
        with load.running():
            time.sleep(UNWATCHED_S)
            samples = list(samples_of(load, served.server.process.pid, SECONDS, EVERY_S))
    found = summary(samples, load)
    assert complaints(found) == []
    assert found["done"]["call"] > 100
    assert draw(samples, tmp_path / "soak.png", MOST_GROWTH).stat().st_size > 10_000


def test_growth_is_that_of_most_samples_behind_the_first_quarter() -> None:
    def sample(second: int, rss_mb: float) -> Sample:
        return Sample(second, rss_mb, 1.0, 50, 9, 0.0, 1.0, second, 0, 1.0, 2.0)

    flat = [sample(second, 1_000.0) for second in range(41)]
    assert growth(flat, "rss_mb") == 0
    assert growth([*flat[:20], sample(20, 5_000.0), *flat[21:]], "rss_mb") == 0
    assert growth([sample(second, 500.0 if second < 10 else 1_000.0) for second in range(41)], "rss_mb") == 0
    rising = [sample(second, 1_000.0 + 2 * max(0, second - 10)) for second in range(41)]
    assert growth(rising, "rss_mb") == pytest.approx(60 / 1_000)  # 2 MB a second for the 30 seconds from the 10th on
