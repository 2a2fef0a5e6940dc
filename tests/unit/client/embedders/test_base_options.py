# SPDX-License-Identifier: Apache-2.0
"""What an embedder's arguments and attributes put on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from flagtriton import FlagModel
from flagtriton.protocol.options.checks import OptionValue
from flagtriton.protocol.tensors import ALL_COMPONENTS
from tests.support.fake_models import DIMENSION, METHODS, embedder, fake_server, texts_of


def sent_options(method: str, deployed: dict[str, Any] | None = None, **arguments: Any) -> dict[str, OptionValue]:
    """Return the options that `method` of a model made with `arguments` sends."""
    fake = fake_server(**(deployed or {}))
    getattr(embedder(fake, **arguments), method)("a")
    return dict(fake.requests[0].parameters)


def sent_text(method: str, text: str = "t", **arguments: Any) -> str:
    fake = fake_server()
    getattr(embedder(fake, **arguments), method)(text)
    return texts_of(fake.requests[0])[0]


# Options.


@pytest.mark.parametrize("method", METHODS)
def test_the_default_length_is_512(method: str) -> None:
    assert sent_options(method, {"max_length": 8192})["max_length"] == 512


@pytest.mark.parametrize("method", METHODS)
def test_the_default_length_is_the_deployments_where_that_is_less(method: str) -> None:
    assert sent_options(method, {"max_length": 128})["max_length"] == 128


@pytest.mark.parametrize(("method", "expected"), [("encode", 20), ("encode_queries", 10), ("encode_corpus", 20)])
def test_each_method_has_its_length(method: str, expected: int) -> None:
    assert sent_options(method, query_max_length=10, passage_max_length=20)["max_length"] == expected


@pytest.mark.parametrize("method", METHODS)
def test_the_calls_length_goes_before_the_objects(method: str) -> None:
    fake = fake_server()
    model = embedder(fake, query_max_length=10, passage_max_length=20)
    getattr(model, method)("a", max_length=30)
    assert fake.requests[0].parameters["max_length"] == 30


def test_the_calls_length_is_never_lowered_in_silence() -> None:
    fake = fake_server(max_length=128)
    embedder(fake).encode("a", max_length=512)
    assert fake.requests[0].parameters["max_length"] == 512


@pytest.mark.parametrize(
    ("method", "expected"),
    [("encode", None), ("encode_queries", "query"), ("encode_corpus", "passage"), ("encode_single_device", None)],
)
def test_each_method_says_what_kind_of_text_it_sends(method: str, expected: str | None) -> None:
    assert sent_options(method).get("input_type") == expected


@pytest.mark.parametrize(
    ("method", "instruction"),
    [
        ("encode_queries", {"query_instruction_for_retrieval": "q: "}),
        ("encode_corpus", {"passage_instruction_for_retrieval": "p: "}),
    ],
)
def test_a_text_with_its_instruction_does_not_get_the_deployments_too(method: str, instruction: dict[str, str]) -> None:
    assert "input_type" not in sent_options(method, **instruction)


def test_an_empty_instruction_keeps_the_deployments_away_too() -> None:
    assert "input_type" not in sent_options("encode_queries", query_instruction_for_retrieval="")


@pytest.mark.parametrize("method", METHODS)
def test_unit_vectors_are_the_default_and_not_sent(method: str) -> None:
    assert "normalize" not in sent_options(method)


@pytest.mark.parametrize("method", METHODS)
def test_raw_vectors_are_asked_for(method: str) -> None:
    assert sent_options(method, normalize_embeddings=False)["normalize"] is False


def test_no_truncate_dim_is_not_sent() -> None:
    assert "truncate_dim" not in sent_options("encode")


@pytest.mark.parametrize("method", METHODS)
def test_truncate_dim_is_sent(method: str) -> None:
    assert sent_options(method, truncate_dim=3)["truncate_dim"] == 3


def test_a_truncate_dim_beyond_the_vectors_is_left_to_the_server() -> None:
    assert sent_options("encode", truncate_dim=9999)["truncate_dim"] == 9999


def test_a_negative_truncate_dim_drops_components_from_the_end() -> None:
    # 768 - 2
    assert sent_options("encode", {"hidden_size": 768}, truncate_dim=-2)["truncate_dim"] == 766


@pytest.mark.parametrize("truncate_dim", [0, -4, -5])
def test_a_truncate_dim_that_leaves_nothing_is_refused(truncate_dim: int) -> None:
    with pytest.raises(ValueError, match=f"is {truncate_dim}, which leaves none of {DIMENSION} components"):
        sent_options("encode", truncate_dim=truncate_dim)


def test_a_negative_truncate_dim_needs_a_known_width() -> None:
    with pytest.raises(ValueError, match="truncate_dim is -1"):
        sent_options("encode", {"hidden_size": None}, truncate_dim=-1)


# Instructions.


@pytest.mark.parametrize("method", METHODS)
def test_texts_go_as_they_are_without_instruction(method: str) -> None:
    assert sent_text(method) == "t"


def test_a_query_goes_behind_its_instruction() -> None:
    assert sent_text("encode_queries", query_instruction_for_retrieval="q: ") == "q: t"


@pytest.mark.parametrize("method", ["encode", "encode_corpus", "encode_single_device"])
def test_other_texts_do_not_get_the_querys_instruction(method: str) -> None:
    assert sent_text(method, query_instruction_for_retrieval="q: ") == "t"


@pytest.mark.parametrize("given", ["Instruct: {}\nQuery: {}", r"Instruct: {}\nQuery: {}"])
def test_the_querys_format_is_applied_and_unescaped(given: str) -> None:
    sent = sent_text("encode_queries", query_instruction_for_retrieval="find", query_instruction_format=given)
    assert sent == "Instruct: find\nQuery: t"


def test_an_empty_query_instruction_still_applies_the_format() -> None:
    sent = sent_text("encode_queries", query_instruction_for_retrieval="", query_instruction_format="<{}> {}")
    assert sent == "<> t"


def test_the_querys_format_alone_changes_nothing() -> None:
    assert sent_text("encode_queries", query_instruction_format="<{}> {}") == "t"


def test_a_passage_goes_behind_its_instruction() -> None:
    assert sent_text("encode_corpus", passage_instruction_for_retrieval="p: ") == "p: t"


def test_the_passages_format_is_applied_and_unescaped() -> None:
    sent = sent_text("encode_corpus", passage_instruction_for_retrieval="title", passage_instruction_format=r"<{}>\n{}")
    assert sent == "<title>\nt"


def test_an_empty_passage_instruction_still_applies_the_format() -> None:
    sent = sent_text("encode_corpus", passage_instruction_for_retrieval="", passage_instruction_format="<{}> {}")
    assert sent == "<> t"


@pytest.mark.parametrize("method", ["encode", "encode_queries"])
def test_other_texts_do_not_get_the_passages_instruction(method: str) -> None:
    assert sent_text(method, passage_instruction_for_retrieval="p: ") == "t"


def test_encode_takes_an_instruction_of_its_own() -> None:
    fake = fake_server()
    embedder(fake).encode("t", instruction="i", instruction_format=r"{}:\n{}")
    assert texts_of(fake.requests[0]) == ["i:\nt"]


def test_encodes_instruction_needs_no_format() -> None:
    fake = fake_server()
    embedder(fake).encode("t", instruction="i ")
    assert texts_of(fake.requests[0]) == ["i t"]


def test_a_format_that_leaves_the_text_out_is_refused_once_there_is_an_instruction() -> None:
    with pytest.raises(ValueError, match=r"the instruction format is '\{\}', which leaves the text out"):
        sent_text("encode_queries", query_instruction_for_retrieval="q: ", query_instruction_format="{}")
    assert sent_text("encode_queries", query_instruction_format="{}") == "t"


def test_every_text_of_a_list_gets_the_instruction() -> None:
    fake = fake_server()
    embedder(fake, query_instruction_for_retrieval="q: ").encode_queries(["aa", "b"])
    assert texts_of(fake.requests[0]) == ["q: aa", "q: b"]


def test_get_detailed_instruct_joins_as_flagembedding_does() -> None:
    assert FlagModel.get_detailed_instruct(r"{}\n{}", "i", "t") == "i\nt"


# Attributes are read at every call.


@pytest.mark.parametrize(
    ("attribute", "value", "option", "expected"),
    [
        ("normalize_embeddings", False, "normalize", False),
        ("truncate_dim", 2, "truncate_dim", 2),
        ("truncate_dim", -1, "truncate_dim", DIMENSION - 1),
        ("query_max_length", 7, "max_length", 7),
    ],
)
def test_a_changed_attribute_changes_the_next_request(
    attribute: str, value: object, option: str, expected: object
) -> None:
    fake = fake_server()
    model = embedder(fake)
    model.encode_queries("a")
    setattr(model, attribute, value)
    model.encode_queries("a")
    before, after = (request.parameters.get(option) for request in fake.requests)
    assert before != after == expected


def test_a_changed_length_beyond_the_deployments_is_left_to_the_server_to_refuse() -> None:
    fake = fake_server(max_length=128)
    model = embedder(fake)
    model.query_max_length = 1000
    model.encode_queries("a")
    assert fake.requests[0].parameters["max_length"] == 1000


def test_a_changed_passage_length_changes_the_next_request() -> None:
    fake = fake_server()
    model = embedder(fake)
    model.passage_max_length = 7
    model.encode_corpus("a")
    assert fake.requests[0].parameters["max_length"] == 7


def test_a_changed_query_instruction_changes_the_next_request() -> None:
    fake = fake_server()
    model = embedder(fake, query_instruction_for_retrieval="q: ")
    model.query_instruction_for_retrieval = "find"
    model.query_instruction_format = "<{}> {}"
    model.encode_queries("t")
    assert texts_of(fake.requests[0]) == ["<find> t"]


def test_a_changed_batch_size_changes_the_next_call() -> None:
    fake = fake_server()
    model = embedder(fake)
    model.batch_size = 1
    model.encode(["a", "bb"])
    assert len(fake.requests) == 2


def test_a_changed_convert_to_numpy_changes_the_next_answer() -> None:
    torch = pytest.importorskip("torch")
    model = embedder(fake_server())
    model.convert_to_numpy = False
    assert isinstance(model.encode("a"), torch.Tensor)


# A deployment whose own defaults are others than FlagEmbedding's.


@pytest.mark.parametrize("method", METHODS)
def test_normalising_is_said_where_the_deployment_would_not(method: str) -> None:
    assert sent_options(method, {"normalize": False})["normalize"] is True
    assert sent_options(method, {"normalize": False}, normalize_embeddings=False)["normalize"] is False
    assert "normalize" not in sent_options(method)


def test_a_default_prompt_is_not_put_before_texts_as_flagembedding_has_none() -> None:
    deployed = {"default_prompt_name": "query"}
    assert sent_options("encode", deployed)["prompt_name"] == ""
    assert sent_options("encode_queries", deployed, query_instruction_for_retrieval="find: ")["prompt_name"] == ""
    assert "prompt_name" not in sent_options("encode_queries", deployed)  # the deployment's instruction, if it has one
    assert "prompt_name" not in sent_options("encode")


def test_components_are_counted_behind_the_deployments_modules() -> None:
    assert (
        sent_options("encode", {"hidden_size": 32, "modules": "Dense:2_Dense"}, truncate_dim=-8)["truncate_dim"] == 24
    )


def test_components_that_the_deployment_would_cut_are_asked_for() -> None:
    deployed = {"hidden_size": 32, "truncate_dim": 16}
    assert sent_options("encode", deployed)["truncate_dim"] == ALL_COMPONENTS
    assert sent_options("encode", deployed, truncate_dim=8)["truncate_dim"] == 8
