# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.tokenize.instructions`: whose instruction is put before a text, and in which format."""

from __future__ import annotations

import dataclasses

import pytest

from flagtriton.protocol.options.checks import OptionError
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.settings import TokenizerSettings
from flagtriton_server.tokenize.instructions import example_text, instructed, prompt_before

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


def test_the_requests_format_replaces_the_deployments_for_both_instructions() -> None:
    options = EmbedOptions(input_type="query", instruction_format=r"{}:\n{}")
    assert instructed(["x"], options, SETTINGS) == ["find:\nx"]
    assert instructed(["x"], dataclasses.replace(options, instruction="seek"), SETTINGS) == ["seek:\nx"]


def test_the_requests_format_of_a_passage_goes_with_the_passage_instruction() -> None:
    options = EmbedOptions(input_type="passage", instruction_format="{}: {}")
    assert instructed(["x"], options, SETTINGS) == ["read: x"]


def test_a_format_without_any_instruction_changes_nothing() -> None:
    settings = dataclasses.replace(SETTINGS, query_instruction=None)
    assert instructed(["x"], EmbedOptions(input_type="query", instruction_format="<{}> {}"), settings) == ["x"]


def asked(**options: object) -> EmbedOptions:
    return dataclasses.replace(EmbedOptions(input_type="query", examples_instruction_format="{}|{}|{}"), **options)


def test_without_examples_nothing_stands_before_a_query() -> None:
    assert example_text(asked(), SETTINGS) == ""


def test_examples_without_an_instruction_get_the_deployments() -> None:
    assert example_text(asked(examples=({"query": "q", "response": "r"},)), SETTINGS) == "find|q|r\n\n"


def test_examples_without_an_instruction_get_the_requests_before_the_deployments() -> None:
    assert example_text(asked(examples=({"query": "q"},), instruction="seek"), SETTINGS) == "seek|q|\n\n"


def test_an_empty_instruction_of_the_request_goes_before_the_deployments_in_examples_too() -> None:
    assert example_text(asked(examples=({"query": "q"},), instruction=""), SETTINGS) == "|q|\n\n"


def test_examples_without_any_instruction_bear_the_text_none() -> None:
    settings = dataclasses.replace(SETTINGS, query_instruction=None)
    assert example_text(asked(examples=({"query": "q"},)), settings) == "None|q|\n\n"


def test_an_empty_list_of_examples_is_an_empty_line() -> None:
    assert example_text(asked(examples=()), SETTINGS) == "\n\n"


def test_a_prefix_stands_there_as_it_came() -> None:
    assert example_text(asked(prefix="p {} "), SETTINGS) == "p {} "


def test_an_empty_prefix_is_one() -> None:
    assert example_text(asked(prefix="", examples=({"query": "q"},)), SETTINGS) == ""


PROMPTED = dataclasses.replace(SETTINGS, prompts='{"query": "q: ", "none": "", "long": "a {} b: "}')


def test_a_prompt_by_its_name_stands_before_every_text() -> None:
    assert instructed(["x", "y"], EmbedOptions(prompt_name="query"), PROMPTED) == ["q: x", "q: y"]


def test_a_prompts_braces_are_its_own() -> None:
    assert instructed(["{x}"], EmbedOptions(prompt_name="long"), PROMPTED) == ["a {} b: {x}"]


def test_a_prompt_takes_the_place_of_an_instruction() -> None:
    assert instructed(["x"], EmbedOptions(prompt_name="query", input_type="passage"), PROMPTED) == ["q: x"]
    assert instructed(["x"], EmbedOptions(prompt_name="none", input_type="passage"), PROMPTED) == ["x"]


def test_a_default_prompt_is_for_texts_that_come_with_nothing() -> None:
    settings = dataclasses.replace(PROMPTED, default_prompt_name="query", passage_instruction=None)
    assert instructed(["x"], EmbedOptions(), settings) == ["q: x"]
    assert instructed(["x"], EmbedOptions(prompt_name=""), settings) == ["x"]
    assert instructed(["x"], EmbedOptions(input_type="query"), settings) == ["<find> x"]
    assert instructed(["x"], EmbedOptions(input_type="passage"), settings) == ["x"]


def test_an_unknown_prompt_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match="option 'prompt_name' is 'sts'; expected one of 'long', 'none', 'query'"):
        instructed(["x"], EmbedOptions(prompt_name="sts"), PROMPTED)
    with pytest.raises(OptionError, match="option 'prompt_name' is 'sts'; this deployment has no prompts"):
        instructed(["x"], EmbedOptions(prompt_name="sts"), SETTINGS)


@pytest.mark.parametrize(
    ("options", "before"),
    [
        (EmbedOptions(), ""),
        (EmbedOptions(prompt_name="query"), "q: "),
        (EmbedOptions(input_type="query"), "<find> "),
        (EmbedOptions(input_type="query", instruction="a", instruction_format="{} {} end"), "a "),
        (EmbedOptions(input_type="query", instruction="a", instruction_format="{1} of {0}"), ""),
    ],
)
def test_what_stands_before_a_text_is_known(options: EmbedOptions, before: str) -> None:
    assert prompt_before(options, PROMPTED) == before
