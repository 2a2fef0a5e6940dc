# SPDX-License-Identifier: Apache-2.0
"""Both factories with every name that FlagEmbedding's know: class, pooling, remote code and instruction format."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import pytest

import flagtriton
from flagtriton import FlagAutoModel, FlagAutoReranker, ModelNotServedError, RerankerModelClass
from flagtriton.checkpoints import EMBEDDERS, RERANKERS
from flagtriton.transport.fake import FakeTransport
from tests.support.fake_models import answer_with_bytes, model_config


class Entry(NamedTuple):
    """What FlagEmbedding's documentation says of a name."""

    class_name: str
    model_class: str
    pooling: str
    remote_code: bool
    query_format: str


PLAIN = "{}{}"
INSTRUCT = "Instruct: {}\nQuery: {}"
TIGHT = "Instruct: {}\nQuery:{}"
TAGGED = "<instruct>{}\n<query>{}"


def encoder(pooling: str, query_format: str = PLAIN, *, remote_code: bool = False) -> Entry:
    return Entry("FlagModel", "encoder-only-base", pooling, remote_code, query_format)


def decoder(query_format: str, *, remote_code: bool = False) -> Entry:
    return Entry("FlagLLMModel", "decoder-only-base", "last_token", remote_code, query_format)


TABLE = {
    "bge-reasoner-embed-qwen3-8b-0923": decoder(INSTRUCT),
    "bge-code-v1": decoder(TAGGED, remote_code=True),
    "bge-en-icl": Entry("FlagICLModel", "decoder-only-icl", "last_token", False, TAGGED),
    "bge-multilingual-gemma2": decoder(TAGGED),
    "bge-m3": Entry("BGEM3FlagModel", "encoder-only-m3", "cls", False, PLAIN),
    "bge-large-en-v1.5": encoder("cls"),
    "bge-base-en-v1.5": encoder("cls"),
    "bge-small-en-v1.5": encoder("cls"),
    "bge-large-zh-v1.5": encoder("cls"),
    "bge-base-zh-v1.5": encoder("cls"),
    "bge-small-zh-v1.5": encoder("cls"),
    "bge-large-en": encoder("cls"),
    "bge-base-en": encoder("cls"),
    "bge-small-en": encoder("cls"),
    "bge-large-zh": encoder("cls"),
    "bge-base-zh": encoder("cls"),
    "bge-small-zh": encoder("cls"),
    "Qwen3-Embedding-0.6B": decoder(TIGHT),
    "Qwen3-Embedding-4B": decoder(TIGHT),
    "Qwen3-Embedding-8B": decoder(TIGHT),
    "e5-mistral-7b-instruct": decoder(INSTRUCT),
    "e5-large-v2": encoder("mean"),
    "e5-base-v2": encoder("mean"),
    "e5-small-v2": encoder("mean"),
    "multilingual-e5-large-instruct": encoder("mean", INSTRUCT),
    "multilingual-e5-large": encoder("mean"),
    "multilingual-e5-base": encoder("mean"),
    "multilingual-e5-small": encoder("mean"),
    "e5-large": encoder("mean"),
    "e5-base": encoder("mean"),
    "e5-small": encoder("mean"),
    "gte-Qwen2-7B-instruct": decoder(INSTRUCT, remote_code=True),
    "gte-Qwen2-1.5B-instruct": decoder(INSTRUCT, remote_code=True),
    "gte-Qwen1.5-7B-instruct": decoder(INSTRUCT, remote_code=True),
    "gte-multilingual-base": encoder("cls", remote_code=True),
    "gte-large-en-v1.5": encoder("cls", remote_code=True),
    "gte-base-en-v1.5": encoder("cls", remote_code=True),
    "gte-large": encoder("mean"),
    "gte-base": encoder("mean"),
    "gte-small": encoder("mean"),
    "gte-large-zh": encoder("cls"),
    "gte-base-zh": encoder("cls"),
    "gte-small-zh": encoder("cls"),
    "SFR-Embedding-2_R": decoder(INSTRUCT),
    "SFR-Embedding-Mistral": decoder(INSTRUCT),
    "Linq-Embed-Mistral": decoder(INSTRUCT),
    "bce-embedding-base_v1": encoder("cls"),
}


def serving(name: str, entry: Entry) -> FakeTransport:
    config = model_config(
        name,
        model_class=entry.model_class,
        pooling_method=entry.pooling,
        trust_remote_code=entry.remote_code,
    )
    return FakeTransport(answer_with_bytes, {name: config})


def test_the_table_has_47_names() -> None:
    assert len(TABLE) == 47


@pytest.mark.parametrize(("name", "entry"), TABLE.items())
def test_a_name_gives_its_class_pooling_and_format_without_a_warning(name: str, entry: Entry) -> None:
    model = FlagAutoModel.from_finetuned(f"org/{name}", transport=serving(name, entry))
    assert (type(model).__name__, model.query_instruction_format) == (entry.class_name, entry.query_format)
    assert model.pooling_method == entry.pooling  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "entry"), TABLE.items())
def test_a_name_is_deployed_with_its_own_code_or_without(name: str, entry: Entry) -> None:
    assert EMBEDDERS[name].trust_remote_code is entry.remote_code


def test_only_the_tables_names_are_known() -> None:
    assert list(EMBEDDERS) == list(TABLE)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_table() -> None:
    import FlagEmbedding
    from FlagEmbedding.inference.embedder.model_mapping import AUTO_EMBEDDER_MAPPING, EMBEDDER_CLASS_MAPPING

    model_classes = {python_class: member.value for member, python_class in EMBEDDER_CLASS_MAPPING.items()}
    theirs = {
        name: (
            config.model_class,
            model_classes[config.model_class],
            config.pooling_method.value,
            config.trust_remote_code,
            config.query_instruction_format,
        )
        for name, config in AUTO_EMBEDDER_MAPPING.items()
    }
    ours = {name: (getattr(FlagEmbedding, entry.class_name), *entry[1:]) for name, entry in TABLE.items()}
    assert list(ours.items()) == list(theirs.items())


CLASSES_OF_RERANKERS = {
    "encoder-only-base": "FlagReranker",
    "decoder-only-base": "FlagLLMReranker",
    "decoder-only-layerwise": "LayerWiseFlagLLMReranker",
    "decoder-only-lightweight": "LightWeightFlagLLMReranker",
}
TABLE_OF_RERANKERS = {
    "bge-reranker-base": "encoder-only-base",
    "bge-reranker-large": "encoder-only-base",
    "bge-reranker-v2-m3": "encoder-only-base",
    "bge-reranker-v2-gemma": "decoder-only-base",
    "bge-reranker-v2-minicpm-layerwise": "decoder-only-layerwise",
    "bge-reranker-v2.5-gemma2-lightweight": "decoder-only-lightweight",
    "jina-reranker-v2-base-multilingual": "encoder-only-base",
    "gte-multilingual-reranker-base": "encoder-only-base",
    "bce-reranker-base_v1": "encoder-only-base",
    "jina-reranker-v1-turbo-en": "encoder-only-base",
}


def serving_reranker(name: str, model_class: str) -> FakeTransport:
    return FakeTransport(answer_with_bytes, {name: model_config(name, task="rerank", model_class=model_class)})


def class_found(name: str, served_as: str, *arguments: Any, **named: Any) -> str:
    transport = serving_reranker(name.split("/")[1], served_as)
    return type(FlagAutoReranker.from_finetuned(name, *arguments, transport=transport, **named)).__name__


@pytest.mark.parametrize(("name", "model_class"), TABLE_OF_RERANKERS.items())
def test_a_rerankers_name_gives_its_class_without_a_warning(name: str, model_class: str) -> None:
    assert class_found(f"org/{name}", model_class) == CLASSES_OF_RERANKERS[model_class]
    assert RERANKERS[name].trust_remote_code is False


def test_only_the_tables_rerankers_are_known() -> None:
    assert list(RERANKERS) == list(TABLE_OF_RERANKERS)


@pytest.mark.parametrize(("model_class", "class_name"), CLASSES_OF_RERANKERS.items())
def test_a_reranker_of_an_unknown_name_gets_the_class_it_is_served_as(model_class: str, class_name: str) -> None:
    assert class_found("org/mine", model_class) == class_name
    with pytest.raises(ModelNotServedError):
        FlagAutoReranker.from_finetuned("org/other", transport=serving_reranker("mine", model_class))


@pytest.mark.parametrize(("model_class", "class_name"), CLASSES_OF_RERANKERS.items())
def test_a_rerankers_class_can_be_given_by_value_or_member_whatever_its_name(model_class: str, class_name: str) -> None:
    for given in (model_class, RerankerModelClass(model_class)):
        for name in ("org/mine", "org/bge-reranker-base", "org/bge-reranker-v2-minicpm-layerwise"):
            assert class_found(name, model_class, model_class=given) == class_name
            assert class_found(name, model_class, given) == class_name


def test_an_llm_reranker_keeps_its_classs_instructions_unless_others_or_none_are_given() -> None:
    def instructions(**arguments: Any) -> tuple[str | None, str | None]:
        transport = serving_reranker("bge-reranker-v2-gemma", "decoder-only-base")
        found = FlagAutoReranker.from_finetuned("bge-reranker-v2-gemma", transport=transport, **arguments)
        return found.query_instruction_for_rerank, found.passage_instruction_for_rerank

    assert instructions() == ("A: ", "B: ")
    assert instructions(query_instruction_for_rerank=None, passage_instruction_for_rerank="P") == (None, "P")


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_table_of_rerankers() -> None:
    import FlagEmbedding
    from FlagEmbedding.inference.reranker.model_mapping import AUTO_RERANKER_MAPPING, RERANKER_CLASS_MAPPING

    model_classes = {python_class: member.value for member, python_class in RERANKER_CLASS_MAPPING.items()}
    theirs = {name: model_classes[config.model_class] for name, config in AUTO_RERANKER_MAPPING.items()}
    assert list(TABLE_OF_RERANKERS.items()) == list(theirs.items())
    assert not any(config.trust_remote_code for config in AUTO_RERANKER_MAPPING.values())
    for python_class, model_class in model_classes.items():
        class_name = CLASSES_OF_RERANKERS[model_class]
        assert getattr(FlagEmbedding, class_name) is python_class
        assert [model_class] == list(getattr(flagtriton, class_name).MODEL_CLASSES)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_signature_for_rerankers() -> None:
    from FlagEmbedding import FlagAutoReranker as Reference

    ours, theirs = (
        [(one.name, one.kind, one.default) for one in inspect.signature(cls.from_finetuned).parameters.values()]
        for cls in (FlagAutoReranker, Reference)
    )
    assert ours == theirs
