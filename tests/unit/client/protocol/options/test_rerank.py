# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.options.rerank`: what each class of rerankers may be asked, and how it travels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flagtriton.protocol.options.checks import OptionError, numbers_in, whole_numbers
from flagtriton.protocol.options.rerank import RerankOptions

ENCODER, LLM = "encoder-only-base", "decoder-only-base"
LAYERWISE, LIGHTWEIGHT = "decoder-only-layerwise", "decoder-only-lightweight"
CLASSES = [ENCODER, LLM, LAYERWISE, LIGHTWEIGHT]

EVERY: dict[str, Any] = {
    "query_max_length": 9,
    "max_length": 80,
    "normalize": True,
    "truncate": "NONE",
    "prompt": "why?",
    "query_instruction": "Q: ",
    "passage_instruction": "P: ",
    "cutoff_layers": (8, 16),
    "compress_ratio": 2,
    "compress_layers": (4, 12),
    "bulk": True,
}
"""A value of each option that is not its default."""

OF_ALL = {"query_max_length", "max_length", "normalize", "truncate", "bulk"}
OF_LLMS = OF_ALL | {"prompt", "query_instruction", "passage_instruction"}
OPTIONS = {
    ENCODER: OF_ALL,
    LLM: OF_LLMS,
    LAYERWISE: OF_LLMS | {"cutoff_layers"},
    LIGHTWEIGHT: OF_LLMS | {"cutoff_layers", "compress_ratio", "compress_layers"},
}
LISTS = ["cutoff_layers", "compress_layers"]


def read(given: dict[str, Any], model_class: str = LIGHTWEIGHT) -> RerankOptions:
    return RerankOptions.from_parameters(given, min_length=5, max_length=100, model_class=model_class)


@pytest.mark.parametrize("model_class", CLASSES)
def test_all_options_of_a_class_are_read_back_as_they_were_sent(model_class: str) -> None:
    options = RerankOptions(**{name: value for name, value in EVERY.items() if name in OPTIONS[model_class]})
    sent = options.to_parameters()
    assert set(sent) == OPTIONS[model_class]
    assert read(sent, model_class) == options


@pytest.mark.parametrize("name", EVERY)
def test_one_option_is_read_back_without_the_others(name: str) -> None:
    options = RerankOptions(**{name: EVERY[name]})
    assert list(options.to_parameters()) == [name]
    assert read(options.to_parameters()) == options


def test_what_is_sent_fits_the_parameters_of_a_request() -> None:
    sent = RerankOptions(**EVERY).to_parameters()
    assert {type(value) for value in sent.values()} == {str, int, bool}
    assert json.loads(json.dumps(sent)) == sent


def test_defaults_are_not_sent_and_no_parameters_give_them() -> None:
    assert RerankOptions().to_parameters() == {}
    assert RerankOptions(compress_layers=(8,), compress_ratio=1, truncate="END").to_parameters() == {}
    for model_class in CLASSES:
        assert read({}, model_class) == RerankOptions()


def test_the_defaults_are_flagembeddings() -> None:
    options = RerankOptions()
    assert (options.compress_layers, options.compress_ratio, options.cutoff_layers) == ((8,), 1, None)


@pytest.mark.parametrize("name", ["prompt", "query_instruction", "passage_instruction"])
def test_an_empty_text_is_no_default(name: str) -> None:
    assert RerankOptions(**{name: ""}).to_parameters() == {name: ""}
    assert getattr(read({name: ""}), name) == ""
    assert getattr(read({}), name) is None


@pytest.mark.parametrize(
    ("model_class", "name"), [(each, name) for each in CLASSES for name in sorted(EVERY.keys() - OPTIONS[each])]
)
def test_an_option_of_another_class_is_unknown_and_the_classs_own_are_listed(model_class: str, name: str) -> None:
    own = ", ".join(sorted(OPTIONS[model_class]))
    with pytest.raises(OptionError, match=rf"^unknown option '{name}'; this model has {own}$"):
        read(RerankOptions(**{name: EVERY[name]}).to_parameters(), model_class)


@pytest.mark.parametrize("name", ["input_type", "cutoff_layer", "compress_layer", "batch_size", "Prompt"])
def test_a_name_that_no_class_has_is_unknown(name: str) -> None:
    for model_class in CLASSES:
        with pytest.raises(OptionError, match=f"^unknown option '{name}'"):
            read({name: "8"}, model_class)


def test_tritons_own_parameters_are_no_options() -> None:
    assert read({"id": "a", "priority": 1, "timeout": 5, "triton_enable_empty_final_response": True}) == RerankOptions()


@pytest.mark.parametrize("name", ["query_max_length", "max_length"])
@pytest.mark.parametrize("value", [101, -1, 0, 5.0, "50", True, None])
def test_a_bad_length_is_named_with_the_deployments_limits(name: str, value: Any) -> None:
    least = {"query_max_length": 1, "max_length": 5}[name]
    said = rf"^option '{name}' is {value!r}; expected a whole number from {least} to 100 \(tokens, this deployment's"
    for model_class in CLASSES:
        with pytest.raises(OptionError, match=said):
            read({name: value}, model_class)


def test_lengths_may_be_as_small_and_as_great_as_is_said() -> None:
    assert read({"query_max_length": 1, "max_length": 5}) == RerankOptions(1, 5)
    assert read({"query_max_length": 100, "max_length": 100}) == RerankOptions(100, 100)
    with pytest.raises(OptionError, match="option 'max_length' is 4"):
        read({"max_length": 4})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("normalize", 1, "true or false, as a boolean"),
        ("normalize", "true", "true or false, as a boolean"),
        ("bulk", 1, "true or false, as a boolean"),
        ("bulk", "true", "true or false, as a boolean"),
        ("truncate", "START", "one of 'END', 'NONE'"),
        ("truncate", "none", "one of 'END', 'NONE'"),
        ("truncate", False, "one of 'END', 'NONE'"),
        ("prompt", 3, "a string"),
        ("query_instruction", True, "a string"),
        ("passage_instruction", None, "a string"),
        ("compress_ratio", 0, "a whole number of at least 1 (tokens that become one; 1 leaves them)"),
        ("compress_ratio", -2, "a whole number of at least 1"),
        ("compress_ratio", "2", "a whole number of at least 1"),
        ("compress_ratio", 1.5, "a whole number of at least 1"),
        ("compress_ratio", True, "a whole number of at least 1"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: Any, expected: str) -> None:
    with pytest.raises(OptionError) as refused:
        read({name: value})
    assert str(refused.value).startswith(f"option {name!r} is {value!r}; expected {expected}")


@pytest.mark.parametrize("name", ["prompt", "query_instruction", "passage_instruction"])
def test_a_text_without_a_utf8_form_is_named(name: str) -> None:
    with pytest.raises(OptionError, match=rf"^option '{name}' holds a lone surrogate, U\+D800, at position 1$"):
        read({name: "é\ud800"})


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (8, (8,)),
        (0, (0,)),
        ("8", (8,)),
        ("8,16", (8, 16)),
        ("16,8", (16, 8)),
        ("8,8", (8, 8)),
        (" 8 , 16 ", (8, 16)),
        ("0" * 30 + "8", (8,)),
        ("9" * 30, (10**30 - 1,)),
    ],
)
def test_layers_come_as_a_string_or_one_integer_and_keep_their_order(
    name: str, value: Any, numbers: tuple[int, ...]
) -> None:
    assert getattr(read({name: value}), name) == numbers


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "value",
    ["", " ", ",", "8,", ",8", "8,,16", "8 16", "8;16", "a", "[8]", "8.0", "∞", "-1", "8,-1", -1, True, None, 8.0],
)
def test_bad_layers_are_named_with_what_is_expected(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as refused:
        read({name: value})
    assert str(refused.value) == (
        f"option {name!r} is {value!r}; expected whole numbers of at least 0, separated by commas, such as '8,16'"
    )


@pytest.mark.parametrize("name", LISTS)
def test_more_digits_than_python_reads_are_refused_as_an_option(name: str) -> None:
    with pytest.raises(OptionError, match=f"^option '{name}' is '9999"):
        read({name: "9" * 5_000})  # int() raises beyond 4,300


@pytest.mark.parametrize(("least", "value"), [(0, -1), (1, 0), (1, "3,0"), (5, "5,4")])
def test_the_least_number_is_said_where_one_is_below(least: int, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"^option 'x' is {value!r}; expected whole numbers of at least {least},"):
        whole_numbers(least)("x", value)
    whole_numbers(least)("x", least)
    whole_numbers(least)("x", f"{least + 1},{least}")


@pytest.mark.parametrize(("value", "numbers"), [(3, (3,)), (-3, (-3,)), ("3,-1", (3, -1)), ("2, 1", (2, 1))])
def test_numbers_are_read_without_regard_to_what_is_allowed(value: Any, numbers: tuple[int, ...]) -> None:
    assert numbers_in(value) == numbers


@pytest.mark.parametrize("value", [True, 1.0, None, (1, 2), "", "one", b"1"])
def test_what_holds_no_numbers_is_no_value(value: Any) -> None:
    with pytest.raises(ValueError):
        numbers_in(value)


def test_a_length_checked_before_is_only_to_be_positive_behind_the_tokenizer() -> None:
    given = {"max_length": 1, "cutoff_layers": "8"}
    options = RerankOptions.from_parameters(given, min_length=1, max_length=2**31, model_class=LAYERWISE)
    assert options == RerankOptions(max_length=1, cutoff_layers=(8,))


def test_parameters_that_were_read_are_left_as_they_were() -> None:
    given = {"cutoff_layers": "8,16", "id": "a"}
    read(given)
    assert given == {"cutoff_layers": "8,16", "id": "a"}
