# SPDX-License-Identifier: Apache-2.0
"""FlagEmbedding's `FlagPseudoMoEModel`: which domain a call is for."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from flagtriton import DeploymentMismatchError, DeploymentWarning, FlagPseudoMoEModel
from flagtriton.transport.fake import FakeTransport
from tests.support.fake_models import METHODS, NAME, fake_server, texts_of, vector


def served(**changes: Any) -> FakeTransport:
    return fake_server(model_class="decoder-only-pseudo_moe", pooling_method="last_token", **changes)


def moe(fake: FakeTransport | None = None, **arguments: Any) -> FlagPseudoMoEModel:
    known = {"concurrency": 1, "transport": fake or served(trust_remote_code=True), **arguments}
    return FlagPseudoMoEModel(NAME, **known)


def domain_sent(method: str, of_object: str | None = None, **of_call: Any) -> Any:
    fake = served(trust_remote_code=True)
    getattr(moe(fake, domain_for_pseudo_moe=of_object), method)("t", **of_call)
    return fake.requests[0].parameters.get("domain")


@pytest.mark.parametrize("method", METHODS)
def test_no_domain_is_left_to_the_model(method: str) -> None:
    assert domain_sent(method) is None


@pytest.mark.parametrize("method", METHODS)
def test_the_objects_domain_is_sent(method: str) -> None:
    assert domain_sent(method, "coding") == "coding"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("argument", ["domain", "domain_for_pseudo_moe"])
def test_the_calls_domain_goes_before_the_objects(method: str, argument: str) -> None:
    assert domain_sent(method, "coding", **{argument: "reasoning"}) == "reasoning"


@pytest.mark.parametrize("argument", ["domain", "domain_for_pseudo_moe"])
def test_none_for_a_call_is_the_objects_domain(argument: str) -> None:
    assert domain_sent("encode", "coding", **{argument: None}) == "coding"


def test_one_name_for_the_domain_may_be_none_beside_the_other() -> None:
    assert domain_sent("encode", domain_for_pseudo_moe=None, domain="reasoning") == "reasoning"


def test_an_empty_domain_for_a_call_is_one() -> None:
    assert domain_sent("encode", "coding", domain="") == ""


@pytest.mark.parametrize("method", METHODS)
def test_both_names_for_the_domain_are_one_too_many_as_in_flagembedding(method: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'domain'"):
        domain_sent(method, domain_for_pseudo_moe="coding", domain="coding")


def test_a_calls_domain_is_not_kept() -> None:
    fake = served(trust_remote_code=True)
    model = moe(fake, domain_for_pseudo_moe="general")
    model.encode("t", domain="coding")
    model.encode("t")
    assert [request.parameters["domain"] for request in fake.requests] == ["coding", "general"]


def test_a_changed_domain_changes_the_next_request() -> None:
    fake = served(trust_remote_code=True)
    model = moe(fake)
    model.domain_for_pseudo_moe = "coding"
    model.encode("t")
    assert fake.requests[0].parameters["domain"] == "coding"


def test_other_arguments_of_a_call_are_refused_beside_a_domain() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'dommain'"):
        moe().encode("t", domain="coding", dommain="coding")


def test_a_query_goes_behind_its_instruction_with_its_domain() -> None:
    fake = served(trust_remote_code=True)
    moe(fake, query_instruction_for_retrieval="i").encode_queries(["t", "u"], domain="coding")
    assert texts_of(fake.requests[0]) == ["Instruct: i\nQuery: t", "Instruct: i\nQuery: u"]
    assert fake.requests[0].parameters == {"max_length": 512, "domain": "coding"}


def test_vectors_come_as_they_are_sent() -> None:
    assert moe().encode(["ab", "c"], domain="coding").tolist() == [vector("ab"), vector("c")]


def warned(**arguments: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeploymentWarning)
        moe(**arguments)
    return [str(one.message) for one in caught]


def test_the_classs_own_wish_for_bf16_is_no_callers() -> None:
    assert warned(fake=served(precision="fp32", trust_remote_code=True)) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "auto"])
def test_half_precision_that_is_permitted_may_be_served_or_not(precision: str) -> None:
    # what FlagAutoModel passes on
    fake = served(precision=precision, trust_remote_code=True)
    assert warned(fake=fake, use_fp16=True, use_bf16=False) == []


def test_full_precision_that_is_asked_for_is_expected() -> None:
    fake = served(precision="bf16", trust_remote_code=True)
    assert warned(fake=fake, use_fp16=False, use_bf16=False) == [f"{NAME}: use_fp16=False, served in bf16"]


def test_its_own_code_is_expected_to_be_served() -> None:
    assert warned(fake=served()) == [f"{NAME}: trust_remote_code=True, served with False"]


def test_arguments_are_kept_under_flagembeddings_names() -> None:
    given = {
        "normalize_embeddings": False,
        "use_fp16": True,
        "use_bf16": False,
        "query_instruction_for_retrieval": "q",
        "query_instruction_format": "{} {}",
        "batch_size": 3,
        "query_max_length": 4,
        "passage_max_length": 5,
        "convert_to_numpy": False,
        "truncate_dim": 2,
        "domain_for_pseudo_moe": "coding",
    }
    model = moe(**given)
    assert {name: getattr(model, name) for name in given} == given


def test_what_the_deployment_settles_otherwise_is_warned_of() -> None:
    said = (
        f"{NAME}: devices='cuda:0', served on cpu; cache_dir='c', weights are loaded by the server from its own cache"
    )
    assert warned(devices="cuda:0", cache_dir="c") == [said]


@pytest.mark.parametrize("pooling_method", ["cls", None])
def test_another_pooling_is_refused_as_in_flagembedding(pooling_method: str | None) -> None:
    with pytest.raises(ValueError, match=r"^Pooling method must be 'last_token' for LLM-based models\.$"):
        moe(pooling_method=pooling_method)


def test_a_deployment_of_another_class_is_refused() -> None:
    fake = fake_server(model_class="decoder-only-base", pooling_method="last_token")
    with pytest.raises(DeploymentMismatchError, match="this class expects embed decoder-only-pseudo_moe"):
        moe(fake)


def parameters_of(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["__init__", "encode_queries", "encode_corpus", "encode_single_device"])
def test_the_reference_has_the_same_signature(method: str) -> None:
    from FlagEmbedding import FlagPseudoMoEModel as Reference

    assert parameters_of(getattr(FlagPseudoMoEModel, method)) == parameters_of(getattr(Reference, method))


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("of_object", [None, "a"])
@pytest.mark.parametrize(
    "of_call",
    [{}, {"domain": "b"}, {"domain_for_pseudo_moe": "c"}, {"domain_for_pseudo_moe": None, "domain": "b"}],
    ids=str,
)
def test_the_reference_chooses_the_same_domain(of_object: str | None, of_call: dict[str, Any]) -> None:
    from types import SimpleNamespace

    from FlagEmbedding import FlagPseudoMoEModel as Reference

    theirs = Reference._resolve_domain(SimpleNamespace(domain_for_pseudo_moe=of_object), dict(of_call))
    assert domain_sent("encode", of_object, **of_call) == theirs


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32", "auto"])
def test_the_defaults_are_no_wish_and_give_no_warning(precision: str) -> None:
    assert warned(fake=served(precision=precision, trust_remote_code=True)) == []
