# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.prompts`: whose instruction is put before a text, and in which format."""

from __future__ import annotations

import dataclasses

from flagtriton.options import EmbedOptions
from flagtriton_server.prompts import instructed
from flagtriton_server.settings import TokenizerSettings

SETTINGS = TokenizerSettings(
    "a/b",
    512,
    query_instruction="find",
    query_instruction_format="<{}> {}",
    passage_instruction="read",
    passage_instruction_format="[{}] {}",
)


def test_texts_without_an_input_type_stay_as_they_are() -> None:
    assert instructed(["x", "y"], EmbedOptions(), SETTINGS) == ["x", "y"]


def test_a_query_gets_the_deployments_query_instruction() -> None:
    assert instructed(["x", "y"], EmbedOptions(input_type="query"), SETTINGS) == ["<find> x", "<find> y"]


def test_a_passage_gets_the_deployments_passage_instruction() -> None:
    assert instructed(["x"], EmbedOptions(input_type="passage"), SETTINGS) == ["[read] x"]


def test_the_requests_instruction_replaces_the_deployments_but_not_its_format() -> None:
    options = EmbedOptions(input_type="query", instruction="seek")
    assert instructed(["x"], options, SETTINGS) == ["<seek> x"]


def test_an_empty_instruction_of_the_request_still_applies_the_format() -> None:
    options = EmbedOptions(input_type="query", instruction="")
    assert instructed(["x"], options, SETTINGS) == ["<> x"]


def test_an_empty_instruction_of_the_deployment_still_applies_the_format() -> None:
    settings = dataclasses.replace(SETTINGS, query_instruction="")
    assert instructed(["x"], EmbedOptions(input_type="query"), settings) == ["<> x"]


def test_without_any_instruction_texts_stay_as_they_are() -> None:
    settings = dataclasses.replace(SETTINGS, query_instruction=None)
    assert instructed(["x"], EmbedOptions(input_type="query"), settings) == ["x"]


def test_a_query_does_not_fall_back_on_the_passage_instruction() -> None:
    settings = TokenizerSettings("a/b", 512, passage_instruction="read")
    assert instructed(["x"], EmbedOptions(input_type="query"), settings) == ["x"]


def test_braces_in_a_text_are_text() -> None:
    assert instructed(["{} {x}"], EmbedOptions(input_type="query"), SETTINGS) == ["<find> {} {x}"]
