# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.options.embed`: what a request may ask for, written by the SDK and read by the steps."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from flagtriton.protocol.options.checks import OptionError
from flagtriton.protocol.options.embed import EmbedOptions


def read(**parameters: Any) -> EmbedOptions:
    return EmbedOptions.from_parameters(parameters, min_length=2, max_length=512)


def read_for(model_class: str | None, **parameters: Any) -> EmbedOptions:
    return EmbedOptions.from_parameters(parameters, min_length=2, max_length=512, model_class=model_class)


def test_default_options_send_nothing() -> None:
    assert EmbedOptions().to_parameters() == {}


def test_only_options_that_differ_are_sent() -> None:
    options = EmbedOptions(max_length=64, normalize=False, truncate="NONE")
    assert options.to_parameters() == {"max_length": 64, "normalize": False, "truncate": "NONE"}


def test_an_empty_instruction_is_sent() -> None:
    assert EmbedOptions(input_type="query", instruction="").to_parameters()["instruction"] == ""


def test_no_parameters_are_the_default_options() -> None:
    assert read() == EmbedOptions()


def test_what_is_sent_is_read_back_equal() -> None:
    options = EmbedOptions(
        max_length=64, input_type="passage", instruction="p: ", normalize=False, truncate_dim=3, truncate="NONE"
    )
    assert read(**options.to_parameters()) == options


@pytest.mark.parametrize("max_length", [2, 512])
def test_max_length_may_be_either_bound(max_length: int) -> None:
    assert read(max_length=max_length).max_length == max_length


@pytest.mark.parametrize("value", [1, 513, -1, 64.0, "64", True])
def test_another_max_length_is_refused_with_the_bounds(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'max_length' is {value!r}; expected a whole number from 2 to 512"):
        read(max_length=value)


@pytest.mark.parametrize("value", ["Query", "document", 1])
def test_another_input_type_is_refused_with_the_choices(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'input_type' is {value!r}; expected one of 'query', 'passage'"):
        read(input_type=value)


@pytest.mark.parametrize("value", [0, 1, "true", "false"])
def test_normalize_is_a_boolean_and_nothing_like_it(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'normalize' is {value!r}; expected true or false"):
        read(normalize=value)


def test_normalize_false_is_read() -> None:
    assert read(normalize=False).normalize is False


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True])
def test_truncate_dim_is_at_least_one(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'truncate_dim' is {value!r}; expected a whole number of at least 1"):
        read(truncate_dim=value)


def test_truncate_dim_has_no_upper_bound() -> None:
    assert read(truncate_dim=10**9).truncate_dim == 10**9


@pytest.mark.parametrize("value", ["end", "START", False])
def test_another_truncate_is_refused_with_the_choices(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'truncate' is {value!r}; expected one of 'END', 'NONE'"):
        read(truncate=value)


@pytest.mark.parametrize("value", [0, 1, "true", "bulk", None])
def test_bulk_is_a_boolean_and_nothing_like_it(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'bulk' is {value!r}; expected true or false"):
        read(bulk=value)


@pytest.mark.parametrize("model_class", ["encoder-only-base", "encoder-only-m3", "decoder-only-icl"])
def test_requests_of_every_class_may_be_part_of_a_long_job(model_class: str) -> None:
    assert EmbedOptions(bulk=True).to_parameters() == {"bulk": True}
    assert read_for(model_class, bulk=True) == EmbedOptions(bulk=True)
    assert read_for(model_class, bulk=False) == read_for(model_class) == EmbedOptions(bulk=False)


def test_an_instruction_that_is_no_string_is_refused() -> None:
    with pytest.raises(OptionError, match="option 'instruction' is 1; expected a string"):
        read(input_type="query", instruction=1)


def test_an_instruction_needs_an_input_type() -> None:
    with pytest.raises(OptionError, match="'instruction' came without 'input_type'"):
        read(instruction="q: ")


@pytest.mark.parametrize(
    ("model_class", "of_its_own"),
    [
        ("encoder-only-base", []),
        ("decoder-only-base", []),
        ("decoder-only-icl", ["examples", "examples_instruction_format", "prefix", "suffix"]),
        ("decoder-only-pseudo_moe", ["domain"]),
        ("encoder-only-m3", ["colbert_dtype"]),
        (None, ["colbert_dtype", "domain", "examples", "examples_instruction_format", "prefix", "suffix"]),
    ],
)
def test_an_unknown_option_is_named_beside_those_of_the_models_class(
    model_class: str | None, of_its_own: list[str]
) -> None:
    of_all = ["bulk", "input_type", "instruction", "instruction_format", "max_length", "normalize", "prompt_name"]
    with pytest.raises(OptionError) as raised:
        read_for(model_class, maxlength=64)
    known = ", ".join(sorted([*of_all, "truncate", "truncate_dim", *of_its_own]))
    assert str(raised.value) == f"unknown option 'maxlength'; this model has {known}"


@pytest.mark.parametrize(
    "name", ["sequence_id", "triton_enable_empty_final_response", "binary_data_output", "priority", "timeout"]
)
def test_what_triton_puts_among_the_parameters_is_passed_over(name: str) -> None:
    assert read(**{name: 1, "max_length": 64}) == EmbedOptions(max_length=64)


def test_every_option_is_known_to_the_reader() -> None:
    allowed: dict[str, Any] = {
        "max_length": 2,
        "input_type": "query",
        "instruction": "",
        "instruction_format": "{}{}",
        "normalize": True,
        "truncate_dim": 1,
        "truncate": "END",
        "examples_instruction_format": "{}{}{}",
        "prefix": "",
        "suffix": "",
        "domain": "",
        "colbert_dtype": "fp16",
        "bulk": True,
    }
    assert {*allowed, "examples", "prompt_name"} == {field.name for field in dataclasses.fields(EmbedOptions)}
    assert read(**allowed) == EmbedOptions(**allowed)


def test_examples_travel_as_json_and_come_back_equal() -> None:
    options = EmbedOptions(input_type="query", examples=({"instruct": "i", "query": "q"}, {"response": "\u4e16"}))
    sent = options.to_parameters()
    assert json.loads(str(sent["examples"])) == [{"instruct": "i", "query": "q"}, {"response": "\u4e16"}]
    assert read(**sent) == options


def test_an_empty_list_of_examples_is_not_the_lack_of_one() -> None:
    assert EmbedOptions(examples=()).to_parameters() == {"examples": "[]"}
    assert read(input_type="query", examples="[]").examples == ()


def test_what_a_query_is_put_between_is_sent_and_read_back() -> None:
    options = EmbedOptions(input_type="query", prefix="", suffix="", examples_instruction_format="{} {} {}")
    assert options.to_parameters() == {
        "input_type": "query",
        "prefix": "",
        "suffix": "",
        "examples_instruction_format": "{} {} {}",
    }
    assert read_for("decoder-only-icl", **options.to_parameters()) == options


def test_a_domain_is_sent_and_read_back() -> None:
    options = EmbedOptions(domain="coding")
    assert options.to_parameters() == {"domain": "coding"}
    assert read_for("decoder-only-pseudo_moe", domain="coding") == options


ONES_OWN = {
    "decoder-only-icl": {
        "examples": "[]",
        "examples_instruction_format": "{}{}{}",
        "prefix": "p",
        "suffix": "s",
    },
    "decoder-only-pseudo_moe": {"domain": "d"},
}


@pytest.mark.parametrize("model_class", ["encoder-only-base", "encoder-only-m3", "decoder-only-base", *ONES_OWN])
@pytest.mark.parametrize(
    ("owner", "name", "value"), [(owner, *item) for owner, options in ONES_OWN.items() for item in options.items()]
)
def test_an_option_of_one_class_is_unknown_to_the_others(model_class: str, owner: str, name: str, value: str) -> None:
    parameters = {"input_type": "query", name: value}
    if model_class == owner:
        assert read_for(model_class, **parameters).input_type == "query"
    else:
        with pytest.raises(OptionError, match=f"unknown option '{name}'"):
            read_for(model_class, **parameters)


@pytest.mark.parametrize("name", ["examples", "examples_instruction_format", "prefix", "suffix"])
@pytest.mark.parametrize("beside", [{}, {"input_type": "passage"}])
def test_what_belongs_to_queries_alone_is_refused_elsewhere(name: str, beside: dict[str, str]) -> None:
    value = ONES_OWN["decoder-only-icl"][name]
    with pytest.raises(OptionError, match=f"option '{name}' came without 'input_type' 'query'"):
        read(**{name: value}, **beside)


def test_examples_and_the_prefix_they_make_are_one_too_many() -> None:
    with pytest.raises(OptionError, match="options 'examples' and 'prefix' came both"):
        read(input_type="query", examples="[]", prefix="")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1, "option 'examples' is 1; expected a string"),
        ("{", "option 'examples' is no JSON list of objects"),
        ("{}", "option 'examples' is no JSON list of objects .*: examples is a dict; expected a list"),
        ('"a"', "examples is a str; expected a list"),
        ("3", "examples is a int; expected a list"),
        ('[{}, "a"]', r"examples\[1\] is 'a' \(str\); expected a dict"),
        ('[{"answer": "a"}]', "examples has the key 'answer'; an example has instruct, query, response"),
    ],
)
def test_other_examples_are_refused_with_what_is_wrong(value: object, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        read(input_type="query", examples=value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("instruction_format", 1, "option 'instruction_format' is 1; expected a string"),
        ("instruction_format", "{}", "option 'instruction_format' is '{}', which leaves the text out; expected 2"),
        ("instruction_format", "{}{}{}", "option 'instruction_format' is '{}{}{}', which has other fields"),
        ("examples_instruction_format", "{}{}", "which leaves the response out; expected 3"),
        ("examples_instruction_format", "{}{}{a}", "'examples_instruction_format' is .*, which has other fields"),
        ("prefix", 1, "option 'prefix' is 1; expected a string"),
        ("suffix", True, "option 'suffix' is True; expected a string"),
        ("domain", 0, "option 'domain' is 0; expected a string"),
    ],
)
def test_a_format_or_text_that_is_none_is_refused(name: str, value: object, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        read(input_type="query", **{name: value})


def test_an_instruction_format_replaces_the_deployments() -> None:
    options = EmbedOptions(input_type="passage", instruction="i", instruction_format="<{}> {}")
    assert read(**options.to_parameters()) == options


def test_an_instruction_format_needs_an_input_type() -> None:
    with pytest.raises(OptionError, match="'instruction_format' came without 'input_type'"):
        read(instruction_format="{}{}")


def test_an_option_error_is_a_value_error() -> None:
    assert issubclass(OptionError, ValueError)


@pytest.mark.parametrize(
    "parameters",
    [
        {"examples": "[" * 100_000},
        {"examples": r'[{"query": "\ud800"}]'},
        {"instruction": "\ud800"},
        {"instruction_format": "{:>99999999999999}{}"},
        {"instruction_format": "{0[x]}{1}"},
        {"instruction_format": "{0.__class__}{1}"},
        {"examples_instruction_format": "{:>5}{}{}"},
    ],
)
def test_what_would_fail_the_step_or_fill_its_memory_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(OptionError, match=f"option '{next(iter(parameters))}' "):
        read(input_type="query", **parameters)


@pytest.mark.parametrize("name", ["instruction", "instruction_format"])
def test_a_prompt_and_an_instruction_do_not_go_together(name: str) -> None:
    with pytest.raises(OptionError, match=f"options '{name}' and 'prompt_name' came both"):
        read(input_type="query", prompt_name="query", **{name: "{}{}"})


def test_a_prompt_needs_no_input_type() -> None:
    assert read(prompt_name="query") == EmbedOptions(prompt_name="query")


def test_a_request_that_does_not_say_is_normalised_as_the_deployment_has_it() -> None:
    limits = {"min_length": 1, "max_length": 512}
    assert not EmbedOptions.from_parameters({}, **limits, normalize=False).normalize
    assert EmbedOptions.from_parameters({"normalize": True}, **limits, normalize=False).normalize
