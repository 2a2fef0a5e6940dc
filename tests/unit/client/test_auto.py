# SPDX-License-Identifier: Apache-2.0
"""The factory: which class, which format, which deployment."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from flagtriton import (
    AbsEmbedder,
    BGEM3FlagModel,
    DeploymentMismatchError,
    EmbedderModelClass,
    FlagAutoModel,
    FlagICLModel,
    FlagLLMModel,
    FlagModel,
    FlagPseudoMoEModel,
    ModelNotServedError,
)
from flagtriton.transport.base import ModelConfig
from flagtriton.transport.fake import FakeTransport
from tests.support.fake_models import NAME, answer_with_bytes, fake_m3, fake_server, model_config, texts_of

E5_INSTRUCT = "multilingual-e5-large-instruct"

CLASSES: dict[str, type[AbsEmbedder]] = {
    "encoder-only-base": FlagModel,
    "encoder-only-m3": BGEM3FlagModel,
    "decoder-only-base": FlagLLMModel,
    "decoder-only-icl": FlagICLModel,
    "decoder-only-pseudo_moe": FlagPseudoMoEModel,
}


def serving(*names: str, **changes: Any) -> FakeTransport:
    return FakeTransport(answer_with_bytes, {name: model_config(name, **changes) for name in names})


def served_name(model_name_or_path: str) -> str:
    """Return which of some deployments a name leads to."""
    fake = serving("bge-base-en-v1.5", "bge-base-zh-v1.5", "mine", "checkpoint-500")
    return FlagAutoModel.from_finetuned(model_name_or_path, transport=fake).served.name


def query_sent(fake: FakeTransport, model_name_or_path: str, **arguments: Any) -> str:
    """Return what the query "q" with the instruction "i" becomes."""
    model = FlagAutoModel.from_finetuned(
        model_name_or_path, query_instruction_for_retrieval="i", transport=fake, **arguments
    )
    model.encode_queries("q")
    return texts_of(fake.requests[-1])[0]


def test_the_factory_itself_cannot_be_made() -> None:
    with pytest.raises(
        OSError, match=r"^FlagAutoModel is designed to be instantiated using the `FlagAutoModel\.from_fine"
    ):
        FlagAutoModel()


def test_a_known_name_gives_its_class() -> None:
    assert isinstance(FlagAutoModel.from_finetuned(NAME, transport=fake_server()), FlagModel)


@pytest.mark.parametrize("name", ["bge-m3", "BAAI/bge-m3"])
def test_bge_m3_gives_its_class(name: str) -> None:
    assert type(FlagAutoModel.from_finetuned(name, transport=fake_m3())) is BGEM3FlagModel


def test_a_served_m3_of_an_unknown_name_gives_its_class() -> None:
    fake = serving("mine", model_class="encoder-only-m3")
    assert type(FlagAutoModel.from_finetuned("mine", transport=fake)) is BGEM3FlagModel


def test_the_class_of_bge_m3_can_be_given() -> None:
    fake = serving("mine", model_class="encoder-only-m3")
    model = FlagAutoModel.from_finetuned("mine", model_class="encoder-only-m3", transport=fake)
    assert type(model) is BGEM3FlagModel


def test_bge_m3_takes_arguments_of_its_own() -> None:
    model = FlagAutoModel.from_finetuned("bge-m3", return_dense=False, return_sparse=True, transport=fake_m3())
    assert model.encode("aab") == {"dense_vecs": None, "lexical_weights": {"97": 2, "98": 1}, "colbert_vecs": None}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("BAAI/bge-base-zh-v1.5", "bge-base-zh-v1.5"),
        ("BAAI/bge-base-zh-v1.5/", "bge-base-zh-v1.5"),
        ("/out/bge-base-zh-v1.5/checkpoint-500", "bge-base-zh-v1.5"),
        ("/out/bge-base-zh-v1.5/checkpoint-500/", "bge-base-zh-v1.5"),
        ("/out/mine/checkpoint-12", "mine"),
        ("checkpoint-500", "checkpoint-500"),
    ],
)
def test_a_path_leads_to_the_deployment_of_its_name(given: str, name: str) -> None:
    assert served_name(given) == name


def test_the_object_keeps_the_path_as_given() -> None:
    given = "BAAI/bge-base-zh-v1.5/"
    assert FlagAutoModel.from_finetuned(given, transport=serving("bge-base-zh-v1.5")).model_name_or_path == given


def test_a_name_that_is_not_served_is_an_error() -> None:
    with pytest.raises(ModelNotServedError, match=r"'bge-small-en-v1\.5' is not served"):
        FlagAutoModel.from_finetuned("BAAI/bge-small-en-v1.5", transport=fake_server())


def test_an_unknown_name_that_is_not_served_is_an_error() -> None:
    with pytest.raises(ModelNotServedError, match="'mine' is not served"):
        FlagAutoModel.from_finetuned("mine", transport=fake_server())


def test_an_unknown_name_that_is_not_served_is_caught_as_flagembeddings_error_is() -> None:
    with pytest.raises(ValueError, match="'mine' is not served"):
        FlagAutoModel.from_finetuned("org/mine", transport=fake_server())


@pytest.mark.parametrize(("model_class", "expected"), CLASSES.items())
@pytest.mark.parametrize("as_member", [False, True])
def test_a_class_can_be_given_by_value_or_member(
    model_class: str, expected: type[AbsEmbedder], as_member: bool
) -> None:
    fake = serving("mine", model_class=model_class, pooling_method=expected.DEFAULT_POOLING_METHOD)
    given = EmbedderModelClass(model_class) if as_member else model_class
    assert type(FlagAutoModel.from_finetuned("mine", model_class=given, transport=fake)) is expected


@pytest.mark.parametrize(("model_class", "expected"), CLASSES.items())
def test_a_given_class_goes_with_the_plain_format_rather_than_its_own(
    model_class: str, expected: type[AbsEmbedder]
) -> None:
    fake = serving("mine", model_class=model_class, pooling_method=expected.DEFAULT_POOLING_METHOD)
    model = FlagAutoModel.from_finetuned("mine", model_class=model_class, transport=fake)
    assert model.query_instruction_format == "{}{}"


def test_a_given_format_goes_before_the_plain_one_of_a_given_class() -> None:
    fake = serving("mine", query_instruction_format="[{}] {}")
    assert query_sent(fake, "mine", model_class="encoder-only-base", query_instruction_format="<{}> {}") == "<i> q"


def test_a_model_that_learns_in_context_takes_arguments_of_its_own() -> None:
    fake = serving("bge-en-icl", model_class="decoder-only-icl", pooling_method="last_token")
    examples = [{"instruct": "i", "query": "a", "response": "b"}]
    model = FlagAutoModel.from_finetuned("bge-en-icl", examples_for_task=examples, suffix="!", transport=fake)
    assert isinstance(model, FlagICLModel)
    assert (model.prefix, model.suffix) == ("<instruct>i\n<query>a\n<response>b\n\n", "!")


def test_a_domain_reaches_its_class() -> None:
    fake = serving("mine", model_class="decoder-only-pseudo_moe", pooling_method="last_token")
    model = FlagAutoModel.from_finetuned("mine", domain_for_pseudo_moe="coding", transport=fake)
    assert isinstance(model, FlagPseudoMoEModel)
    assert model.domain_for_pseudo_moe == "coding"


@pytest.mark.parametrize("model_class", ["nope", FlagModel])
def test_another_class_is_refused_as_in_flagembedding(model_class: Any) -> None:
    with pytest.raises(ValueError, match="is not a valid EmbedderModelClass"):
        FlagAutoModel.from_finetuned(NAME, model_class=model_class, transport=fake_server())


def test_a_known_name_served_as_another_class_is_named_beside_its_own() -> None:
    said = "bge-en-icl is served as embed encoder-only-base; this class expects embed decoder-only-icl"
    with pytest.raises(DeploymentMismatchError, match=said):
        FlagAutoModel.from_finetuned("bge-en-icl", transport=serving("bge-en-icl", pooling_method="last_token"))


@pytest.mark.parametrize(("model_class", "expected"), CLASSES.items())
def test_an_unknown_name_takes_the_class_that_the_server_says(model_class: str, expected: type[AbsEmbedder]) -> None:
    fake = serving("mine", model_class=model_class, pooling_method=expected.DEFAULT_POOLING_METHOD)
    assert type(FlagAutoModel.from_finetuned("mine", transport=fake)) is expected


def test_an_unknown_name_is_looked_up_once() -> None:
    class Counting(FakeTransport):
        lookups = 0

        def model_config(self, model: str) -> ModelConfig:
            self.lookups += 1
            return super().model_config(model)

    fake = Counting(answer_with_bytes, {"mine": model_config("mine")})
    FlagAutoModel.from_finetuned("mine", transport=fake)
    assert fake.lookups == 1


def test_a_class_that_this_version_lacks_is_a_mismatch() -> None:
    fake = serving("mine", model_class="decoder-only-new", pooling_method="last_token")
    with pytest.raises(DeploymentMismatchError, match="mine is served as embed decoder-only-new, for which"):
        FlagAutoModel.from_finetuned("mine", transport=fake)
    assert fake.closed


def test_a_layerwise_reranker_of_an_unknown_name_is_a_mismatch() -> None:
    fake = serving("mine", task="rerank", model_class="decoder-only-layerwise")
    with pytest.raises(DeploymentMismatchError, match="mine"):
        FlagAutoModel.from_finetuned("mine", transport=fake)


def test_an_encoder_only_reranker_of_an_unknown_name_is_a_mismatch() -> None:
    fake = serving("mine", task="rerank")
    with pytest.raises(DeploymentMismatchError, match="mine is served as rerank encoder-only-base"):
        FlagAutoModel.from_finetuned("mine", transport=fake)


def test_the_pooling_of_an_unknown_name_is_the_deployments() -> None:
    model = FlagAutoModel.from_finetuned("mine", transport=serving("mine", pooling_method="mean"))
    assert isinstance(model, FlagModel)
    assert model.pooling_method == "mean"


def test_a_known_name_served_with_another_pooling_than_the_tables_is_refused() -> None:
    with pytest.raises(DeploymentMismatchError, match="pooling_method='mean', not 'cls'"):
        FlagAutoModel.from_finetuned(NAME, transport=fake_server(pooling_method="mean"))


def test_a_given_class_means_its_own_pooling_as_in_flagembedding() -> None:
    with pytest.raises(DeploymentMismatchError, match="pooling_method='mean', not 'cls'"):
        FlagAutoModel.from_finetuned(
            "mine", model_class="encoder-only-base", transport=serving("mine", pooling_method="mean")
        )


def test_another_pooling_than_the_deployments_is_refused() -> None:
    with pytest.raises(DeploymentMismatchError, match="pooling_method='cls', not 'mean'"):
        FlagAutoModel.from_finetuned(NAME, pooling_method="mean", transport=fake_server())


def test_a_known_name_brings_its_instruction_format() -> None:
    assert query_sent(serving(E5_INSTRUCT, pooling_method="mean"), f"intfloat/{E5_INSTRUCT}") == "Instruct: i\nQuery: q"


def test_a_given_format_goes_before_the_known_one() -> None:
    fake = serving(E5_INSTRUCT, pooling_method="mean")
    assert query_sent(fake, E5_INSTRUCT, query_instruction_format="{}: {}") == "i: q"


def test_a_given_class_puts_the_plain_format_in_place_of_the_known_one() -> None:
    assert query_sent(serving(E5_INSTRUCT), E5_INSTRUCT, model_class="encoder-only-base") == "iq"


def test_an_unknown_name_takes_the_deployments_format() -> None:
    assert query_sent(serving("mine", query_instruction_format="<{}> {}"), "mine") == "<i> q"


def test_further_arguments_reach_the_class() -> None:
    model = FlagAutoModel.from_finetuned(
        NAME, normalize_embeddings=False, truncate_dim=2, batch_size=3, query_max_length=9, transport=fake_server()
    )
    assert (model.normalize_embeddings, model.truncate_dim, model.batch_size, model.query_max_length) == (
        False,
        2,
        3,
        9,
    )


def test_an_unknown_name_passes_further_arguments_on() -> None:
    model = FlagAutoModel.from_finetuned("mine", batch_size=3, retries=0, transport=serving("mine"))
    assert (model.batch_size, model.served.settings.retries) == (3, 0)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_signature() -> None:
    from FlagEmbedding import FlagAutoModel as Reference

    ours, theirs = (
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(function).parameters.values()
        ]
        for function in (FlagAutoModel.from_finetuned, Reference.from_finetuned)
    )
    assert ours == theirs


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_refuses_to_be_made_in_the_same_words() -> None:
    from FlagEmbedding import FlagAutoModel as Reference

    with pytest.raises(OSError) as theirs:
        Reference()
    with pytest.raises(OSError) as ours:
        FlagAutoModel()
    assert str(ours.value) == str(theirs.value)
