# SPDX-License-Identifier: Apache-2.0
"""`tests.robustness.capacity.probe`: how fast the machine is, told beside whatever else is measured."""

from __future__ import annotations

import math
import time

import pytest

from tests.robustness.capacity.probe import Probe, probing


def test_an_interval_has_the_mean_of_what_was_told_in_it() -> None:
    probe = Probe()
    for moment, seconds in ((1.0, 5.0), (2.0, 3.0), (3.0, 1.0), (4.0, 7.0)):
        probe.add(moment, seconds)
    assert probe.seconds_between(2.0, 3.0) == pytest.approx(2.0)
    assert math.isnan(probe.seconds_between(5.0, 6.0))


def test_every_core_tells_and_none_when_it_is_over() -> None:
    with probing() as probe:
        began = time.monotonic()
        deadline = began + 30
        while math.isnan(probe.seconds_between(began, time.monotonic())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    ended = time.monotonic()
    assert 0 < probe.seconds_between(began, ended) < 1
    time.sleep(0.5)
    assert math.isnan(probe.seconds_between(ended, time.monotonic()))
