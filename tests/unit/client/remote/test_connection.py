# SPDX-License-Identifier: Apache-2.0
"""The settings of a connection among keyword arguments."""

from __future__ import annotations

from typing import Any

import pytest

from flagtriton.remote.connection import ConnectionSettings
from tests.support.fake_models import fake_server


def test_connection_settings_are_taken_out_of_the_arguments() -> None:
    arguments: dict[str, Any] = {"url": "http://a:1", "retries": 0, "colour": "red"}
    assert ConnectionSettings.pop_from(arguments) == ConnectionSettings(url="http://a:1", retries=0)
    assert arguments == {"colour": "red"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("concurrency", 0, "at least 1"),
        ("retries", -1, "at least 0"),
        ("retry_s", -0.5, "at least 0"),
        ("timeout_s", 0, "seconds above 0"),
        ("timeout_s", -1.0, "seconds above 0"),
        ("request_timeout_s", 0, "seconds above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError) as refused:
        ConnectionSettings.pop_from({name: value})
    assert str(refused.value) == f"{name} is {value}; expected {expected}"


@pytest.mark.parametrize("name", ["retries", "retry_s"])
def test_no_retries_at_all_can_be_asked(name: str) -> None:
    assert getattr(ConnectionSettings.pop_from({name: 0}), name) == 0


def test_a_request_is_tried_again_as_often_as_there_is_time_for_within_five_minutes() -> None:
    policy = ConnectionSettings().retry_policy
    assert (policy.retries, policy.patience_s) == (None, 300.0)


def test_what_is_asked_of_retries_holds_for_every_request() -> None:
    policy = ConnectionSettings(retries=7, retry_s=2.5).retry_policy
    assert (policy.retries, policy.patience_s) == (7, 2.5)


@pytest.mark.parametrize(("retry_s", "patience_s"), [(300.0, 15.0), (15.5, 15.0), (2.5, 2.5), (0, 0)])
def test_a_deployment_is_looked_for_a_quarter_of_a_minute_at_most(retry_s: float, patience_s: float) -> None:
    policy = ConnectionSettings(retries=7, retry_s=retry_s).lookup_retry_policy
    assert (policy.retries, policy.patience_s) == (7, patience_s)


@pytest.mark.parametrize(
    ("priority", "of_requests"),
    [
        (None, {0: False, 1: False, 2: True, 9: True}),
        ("interactive", {0: False, 1: False, 2: False, 9: False}),
        ("bulk", {0: True, 1: True, 2: True, 9: True}),
    ],
)
def test_a_call_is_bulk_where_it_is_said_or_has_more_requests_than_one(
    priority: str | None, of_requests: dict[int, bool]
) -> None:
    settings = ConnectionSettings.pop_from({"priority": priority})
    assert {requests: settings.is_bulk(requests) for requests in of_requests} == of_requests


def test_nothing_is_said_of_the_priority_unless_it_is_given() -> None:
    assert ConnectionSettings().priority is None


@pytest.mark.parametrize("priority", ["urgent", "Bulk", "", 1, True])
def test_another_priority_is_refused_with_those_there_are(priority: object) -> None:
    with pytest.raises(ValueError) as refused:
        ConnectionSettings.pop_from({"priority": priority})
    assert str(refused.value) == f"priority is {priority!r}; expected one of interactive, bulk, or None"


def test_a_given_transport_is_used_as_it_is() -> None:
    fake = fake_server()
    assert ConnectionSettings(url="http://elsewhere:1", transport=fake).open_transport() is fake
