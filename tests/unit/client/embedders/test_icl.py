# SPDX-License-Identifier: Apache-2.0
"""FlagEmbedding's `FlagICLModel`: examples of the caller's own, which travel with its queries."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagtriton import DeploymentMismatchError, DeploymentWarning, FlagICLModel
from flagtriton.transport.fake import FakeTransport
from tests.support.fake_models import METHODS, NAME, fake_server, texts_of, vector

DEFAULT_FORMAT = "<instruct>{}\n<query>{}\n<response>{}"
EXAMPLES = [{"instruct": "i", "query": "a", "response": "b"}]
PREFIX = "<instruct>i\n<query>a\n<response>b\n\n"
QUERY_METHODS = ["encode_queries", "encode_queries_single_device"]


def served(**changes: Any) -> FakeTransport:
    return fake_server(model_class="decoder-only-icl", pooling_method="last_token", **changes)


def icl(fake: FakeTransport | None = None, **arguments: Any) -> FlagICLModel:
    return FlagICLModel(NAME, **{"concurrency": 1, "transport": fake or served(), **arguments})


def sent(method: str, deployed: dict[str, Any] | None = None, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """Return the text and the options that `method` sends for the text `t`."""
    fake = served(**(deployed or {}))
    getattr(icl(fake, **arguments), method)("t")
    (request,) = fake.requests
    return texts_of(request)[0], dict(request.parameters)


def test_no_examples_are_no_prefix() -> None:
    assert icl().prefix == ""


def test_examples_are_the_prefix() -> None:
    assert icl(examples_for_task=EXAMPLES).prefix == PREFIX


def test_an_empty_list_of_examples_is_an_empty_line() -> None:
    assert icl(examples_for_task=[]).prefix == "\n\n"


def test_examples_without_an_instruction_get_the_querys() -> None:
    model = icl(examples_for_task=[{"query": "a"}], query_instruction_for_retrieval="find")
    assert model.prefix == "<instruct>find\n<query>a\n<response>\n\n"


def test_examples_without_an_instruction_get_the_deployments_where_the_query_does() -> None:
    model = icl(served(query_instruction="seek"), examples_for_task=[{"query": "a"}])
    assert model.prefix == "<instruct>seek\n<query>a\n<response>\n\n"


def test_an_empty_instruction_of_the_querys_goes_before_the_deployments() -> None:
    model = icl(served(query_instruction="seek"), examples_for_task=[{}], query_instruction_for_retrieval="")
    assert model.prefix == "<instruct>\n<query>\n<response>\n\n"


def test_examples_without_any_instruction_bear_the_text_none() -> None:
    assert icl(examples_for_task=[{}]).prefix == "<instruct>None\n<query>\n<response>\n\n"


def test_examples_are_written_out_in_their_format_with_newlines_unescaped() -> None:
    model = icl(examples_for_task=EXAMPLES, examples_instruction_format=r"{}\n{}={}")
    assert (model.prefix, model.examples_instruction_format) == ("i\na=b\n\n", "{}\n{}={}")


def test_other_examples_take_the_place_of_the_constructors_until_those_are_set_again() -> None:
    model = icl(examples_for_task=EXAMPLES, examples_instruction_format="{}{}{}")
    model.set_examples([{"instruct": "x"}])
    assert (model.prefix, model.examples_for_task) == ("x\n\n", EXAMPLES)
    model.set_examples()
    assert model.prefix == "iab\n\n"


def test_an_empty_list_takes_the_place_of_the_constructors_examples() -> None:
    model = icl(examples_for_task=EXAMPLES)
    model.set_examples([])
    assert model.prefix == "\n\n"


def test_set_examples_changes_the_next_request() -> None:
    fake = served()
    model = icl(fake, examples_instruction_format="{}{}{}")
    model.set_examples(EXAMPLES)
    model.encode_queries("t")
    assert fake.requests[0].parameters["prefix"] == "iab\n\n"


@pytest.mark.parametrize("method", QUERY_METHODS)
def test_a_query_goes_with_its_prefix_and_is_put_in_place_by_the_server(method: str) -> None:
    text, options = sent(method, examples_for_task=EXAMPLES, query_instruction_for_retrieval="find")
    assert text == "t"
    assert options == {
        "max_length": 512,
        "input_type": "query",
        "instruction": "find",
        "instruction_format": "<instruct>{}\n<query>{}",
        "prefix": PREFIX,
    }


@pytest.mark.parametrize("method", QUERY_METHODS)
def test_without_an_instruction_prefix_and_suffix_still_go(method: str) -> None:
    _, options = sent(method, examples_for_task=EXAMPLES, suffix="!")
    assert options == {"max_length": 512, "input_type": "query", "prefix": PREFIX, "suffix": "!"}


def test_an_empty_suffix_and_an_empty_instruction_are_sent() -> None:
    _, options = sent("encode_queries", suffix="", query_instruction_for_retrieval="")
    assert (options["suffix"], options["instruction"]) == ("", "")


@pytest.mark.parametrize("method", ["encode", "encode_corpus", "encode_single_device"])
def test_passages_go_as_they_are(method: str) -> None:
    text, options = sent(method, examples_for_task=EXAMPLES, query_instruction_for_retrieval="find", suffix="!")
    assert text == "t"
    assert {"prefix", "suffix", "instruction", "instruction_format"}.isdisjoint(options)
    assert options.get("input_type") != "query"


@pytest.mark.parametrize("method", [*METHODS, "encode_queries_single_device"])
def test_the_objects_own_options_go_with_every_method(method: str) -> None:
    _, options = sent(method, normalize_embeddings=False, truncate_dim=-1)
    assert (options["normalize"], options["truncate_dim"]) == (False, 3)


@pytest.mark.parametrize("method", QUERY_METHODS)
@pytest.mark.parametrize(("given", "expected"), [({}, 128), ({"max_length": 9}, 9)])
def test_a_query_has_the_calls_length_or_the_lesser_of_512_and_the_deployments(
    method: str, given: dict[str, int], expected: int
) -> None:
    fake = served(max_length=128)
    getattr(icl(fake), method)("t", **given)
    assert fake.requests[0].parameters["max_length"] == expected


@pytest.mark.parametrize(
    ("attribute", "value", "option"),
    [
        ("prefix", "p ", "prefix"),
        ("suffix", "!", "suffix"),
        ("query_instruction_for_retrieval", "seek", "instruction"),
        ("query_instruction_format", "{}: {}", "instruction_format"),
        ("query_max_length", 7, "max_length"),
    ],
)
def test_a_changed_attribute_changes_the_next_request(attribute: str, value: object, option: str) -> None:
    fake = served()
    model = icl(fake, query_instruction_for_retrieval="find")
    setattr(model, attribute, value)
    model.encode_queries("t")
    assert fake.requests[0].parameters[option] == value


@pytest.mark.parametrize("method", QUERY_METHODS)
def test_vectors_come_in_the_order_of_the_queries(method: str) -> None:
    assert getattr(icl(), method)(["ab", "c"]).tolist() == [vector("ab"), vector("c")]


@pytest.mark.parametrize("method", QUERY_METHODS)
def test_no_more_queries_travel_together_than_asked_for(method: str) -> None:
    fake = served()
    getattr(icl(fake), method)(["a", "b", "c"], batch_size=2)
    assert sorted(len(texts_of(request)) for request in fake.requests) == [1, 2]


@pytest.mark.parametrize("method", QUERY_METHODS)
def test_a_lone_query_is_one_vector(method: str) -> None:
    assert getattr(icl(), method)("ab").tolist() == vector("ab")


def test_no_queries_are_no_vectors() -> None:
    assert icl(examples_for_task=EXAMPLES).encode_queries([]).shape == (0, 4)


def test_queries_may_come_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert isinstance(icl().encode_queries_single_device("a", convert_to_numpy=False), torch.Tensor)


def test_an_instruction_is_no_argument_of_encode_queries() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'instruction'"):
        icl().encode_queries("t", instruction="i")


def test_threads_end_as_flagembeddings_query_pool_does_and_begin_again() -> None:
    fake = served()
    model = icl(fake)
    model.stop_self_query_pool()
    assert (model.query_pool, fake.closed) == (None, False)
    assert model.encode_queries("ab").tolist() == vector("ab")


def test_get_detailed_example_writes_one_out() -> None:
    assert FlagICLModel.get_detailed_example(r"{}\n{}{}", "i", "q", "r") == "i\nqr"


@pytest.mark.parametrize("examples", ["ab", {"query": "q"}, 3, [{}, "q"]])
def test_what_are_no_examples_is_refused(examples: Any) -> None:
    with pytest.raises(TypeError, match="examples_for_task"):
        icl(examples_for_task=examples)


def test_a_generator_of_examples_is_refused_as_it_can_be_read_once_only() -> None:
    with pytest.raises(TypeError, match="examples_for_task is a generator; expected a list of dicts"):
        icl(examples_for_task=(example for example in EXAMPLES))


def test_a_warning_of_the_constructors_points_at_the_callers_line() -> None:
    with pytest.warns(DeploymentWarning, match="'answer', which has no effect") as caught:
        icl(examples_for_task=[{"answer": "a"}])
    assert {Path(warning.filename).name for warning in caught} == {"test_icl.py"}


@pytest.mark.parametrize(
    "given",
    [
        {"suffix": "\ud800"},
        {"query_instruction_for_retrieval": "\ud800"},
        {"examples_for_task": [{"query": "\ud800"}]},
    ],
)
def test_a_lone_surrogate_is_refused_before_it_is_sent(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"holds a lone surrogate, U\+D800"):
        icl(**given).encode_queries("t")


def test_what_are_no_examples_leaves_the_prefix_as_it_was() -> None:
    model = icl(examples_for_task=EXAMPLES)
    with pytest.raises(TypeError, match=r"examples_for_task\[0\] is 'a' \(str\); expected a dict"):
        model.set_examples(["a"])  # type: ignore[list-item]
    assert model.prefix == PREFIX


def test_a_key_that_means_nothing_is_warned_of() -> None:
    said = "examples_for_task has the key 'answer', which has no effect; an example has instruct, query and response"
    model = icl()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.set_examples([{"answer": "a", "instruct": "i"}])
    assert [(one.category, str(one.message), one.filename) for one in caught] == [(DeploymentWarning, said, __file__)]


@pytest.mark.parametrize("example_format", ["{}{}", "{}{}{}{}", "{a}"])
def test_a_format_that_cannot_write_an_example_is_refused(example_format: str) -> None:
    with pytest.raises(ValueError, match=r"^examples_instruction_format is"):
        icl(examples_instruction_format=example_format)


@pytest.mark.parametrize("instruction", ["find", ""])
def test_a_format_that_cannot_join_an_instruction_is_refused_once_there_is_one(instruction: str) -> None:
    model = icl(query_instruction_format="{}")
    model.encode_queries("t")
    model.query_instruction_for_retrieval = instruction
    with pytest.raises(ValueError, match=r"^query_instruction_format is '\{\}', which leaves the text out"):
        model.encode_queries("t")


def test_arguments_are_kept_under_flagembeddings_names() -> None:
    given = {
        "normalize_embeddings": False,
        "use_fp16": False,
        "use_bf16": False,
        "query_instruction_for_retrieval": "q",
        "query_instruction_format": "{} {}",
        "suffix": "!",
        "examples_for_task": EXAMPLES,
        "examples_instruction_format": "{}{}{}",
        "batch_size": 3,
        "query_max_length": 4,
        "passage_max_length": 5,
        "convert_to_numpy": False,
        "truncate_dim": 2,
    }
    model = icl(**given)
    assert {name: getattr(model, name) for name in given} == given


def test_what_the_deployment_settles_otherwise_is_warned_of() -> None:
    said = "devices='cuda:0', served on cpu; trust_remote_code=True, served with False; cache_dir='c'"
    with pytest.warns(DeploymentWarning, match=said):
        icl(devices="cuda:0", trust_remote_code=True, cache_dir="c")


@pytest.mark.parametrize("pooling_method", ["cls", None])
def test_another_pooling_is_refused_as_in_flagembedding(pooling_method: str | None) -> None:
    with pytest.raises(ValueError, match=r"^Pooling method must be 'last_token' for LLM-based models\.$"):
        icl(pooling_method=pooling_method)


def test_a_deployment_of_another_class_is_refused() -> None:
    fake = fake_server(model_class="decoder-only-base", pooling_method="last_token")
    with pytest.raises(DeploymentMismatchError, match="this class expects embed decoder-only-icl"):
        icl(fake)


def parameters_of(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "method",
    [
        "__init__",
        "set_examples",
        "get_detailed_example",
        "encode_queries",
        "encode_queries_single_device",
        "encode_corpus",
        "encode_single_device",
        "stop_self_query_pool",
    ],
)
def test_the_reference_has_the_same_signature(method: str) -> None:
    from FlagEmbedding import FlagICLModel as Reference

    assert parameters_of(getattr(FlagICLModel, method)) == parameters_of(getattr(Reference, method))
