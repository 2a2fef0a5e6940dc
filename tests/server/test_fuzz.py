# SPDX-License-Identifier: Apache-2.0
"""A short form of `python -m tests.robustness.fuzz`: malformed requests, good ones between, a server that stands."""

from __future__ import annotations

import pytest

from tests.conftest import Served
from tests.robustness.fuzz.campaign import Campaign, Findings
from tests.robustness.fuzz.catalogue import Catalogue
from tests.robustness.fuzz.known import good_requests
from tests.robustness.fuzz.models import World, served_models
from tests.robustness.fuzz.serving import Target
from tests.robustness.fuzz.wires import Fate

pytestmark = pytest.mark.server

SEED, REQUESTS, WARM_UP = 1, 1_500, 700


@pytest.fixture(scope="module")
def world(served: Served) -> World:
    return served_models(Target.of(served).http)


@pytest.fixture(scope="module")
def found(served: Served, world: World) -> Findings:
    target = Target.of(served)
    campaign = Campaign(target, Catalogue(world, SEED), good_requests(world, target.grpc), threads=8)
    return campaign.run(REQUESTS, WARM_UP)


def test_good_answers_stay_right_and_no_bad_request_gets_success_or_is_left_hanging(found: Findings) -> None:
    of_requests = [
        f"{sentence}; again: python -m tests.robustness.fuzz --seed {SEED} --only {number}"
        for number, sentence in found.violations
        if number is not None
    ]
    assert of_requests == []
    assert found.good >= REQUESTS // 20


def test_no_process_ends_and_neither_memory_nor_open_files_grow(found: Findings) -> None:
    assert [sentence for number, sentence in found.violations if number is None] == []


def test_most_bad_requests_are_refused_in_words(found: Findings) -> None:
    refused = sum(count for (_, fate), count in found.fates.items() if fate is Fate.REFUSED)
    assert refused > sum(found.fates.values()) / 2


def test_a_number_always_stands_for_the_same_request(world: World) -> None:
    once, again = Catalogue(world, SEED), Catalogue(world, SEED)
    assert [once.attack(number) for number in range(300)] == [again.attack(number) for number in range(300)]
    assert once.attack(0) != Catalogue(world, SEED + 1).attack(0)
