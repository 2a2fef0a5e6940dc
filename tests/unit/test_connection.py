# SPDX-License-Identifier: Apache-2.0
"""The settings of a connection among keyword arguments."""

from __future__ import annotations

from typing import Any

import pytest

from flagtriton.connection import ConnectionSettings
from tests.unit.fakes import fake_server


def test_connection_settings_are_taken_out_of_the_arguments() -> None:
    arguments: dict[str, Any] = {"url": "http://a:1", "retries": 0, "colour": "red"}
    assert ConnectionSettings.taken_from(arguments) == ConnectionSettings(url="http://a:1", retries=0)
    assert arguments == {"colour": "red"}


@pytest.mark.parametrize("bad", [{"concurrency": 0}, {"retries": -1}, {"timeout_s": 0}, {"timeout_s": -1.0}])
def test_a_setting_out_of_range_is_refused_by_name(bad: dict[str, Any]) -> None:
    [(name, value)] = bad.items()
    with pytest.raises(ValueError, match=rf"\b{name}\b( is)? {value}\b.*expected at least 1, at least 0"):
        ConnectionSettings.taken_from(bad)


def test_no_retries_at_all_can_be_asked() -> None:
    assert ConnectionSettings.taken_from({"retries": 0}).retries == 0


def test_a_given_transport_is_used_as_it_is() -> None:
    fake = fake_server()
    assert ConnectionSettings(url="http://elsewhere:1", transport=fake).open_transport() is fake
