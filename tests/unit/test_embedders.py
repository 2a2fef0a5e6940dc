# SPDX-License-Identifier: Apache-2.0
"""FlagEmbedding's embedder class in front of a fake server."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flagtriton import (
    DeploymentMismatchError,
    DeploymentWarning,
    FlagModel,
    InvalidRequestError,
    MissingExtraError,
    ModelNotServedError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from flagtriton.options import OptionValue
from flagtriton.transport.fake import FakeTransport
from tests.unit.fakes import DIMENSION, NAME, failing_first, fake_server, texts_of, vector

METHODS = ["encode", "encode_queries", "encode_corpus", "encode_single_device"]
LONE_SURROGATE = "\ud83d"


def embedder(fake: FakeTransport, name: str = NAME, **arguments: Any) -> FlagModel:
    """Return a `FlagModel`; one request at a time, so that their order is the plan's."""
    return FlagModel(name, **{"concurrency": 1, "transport": fake, **arguments})


def sent_options(method: str, deployed: dict[str, Any] | None = None, **arguments: Any) -> dict[str, OptionValue]:
    """Return the options that `method` of a model made with `arguments` sends."""
    fake = fake_server(**(deployed or {}))
    getattr(embedder(fake, **arguments), method)("a")
    return dict(fake.requests[0].parameters)


def sent_text(method: str, text: str = "t", **arguments: Any) -> str:
    fake = fake_server()
    getattr(embedder(fake, **arguments), method)(text)
    return texts_of(fake.requests[0])[0]


def warnings_of(make: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return caught


def parameters_of(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


# Shapes, order, and what comes in.


@pytest.mark.parametrize("method", METHODS)
def test_a_str_gives_one_vector(method: str) -> None:
    vectors = getattr(embedder(fake_server()), method)("ab")
    # Two bytes, a = 97, b = 98, and 97 + 98.
    assert vectors.tolist() == [2, 97, 98, 195]


@pytest.mark.parametrize("method", METHODS)
def test_a_list_of_one_gives_one_row(method: str) -> None:
    assert getattr(embedder(fake_server()), method)(["ab"]).tolist() == [[2, 97, 98, 195]]


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_list_gives_no_rows_of_the_right_width(method: str) -> None:
    assert getattr(embedder(fake_server()), method)([]).shape == (0, DIMENSION)


def test_an_empty_list_gives_the_width_that_truncate_dim_leaves() -> None:
    assert embedder(fake_server(), truncate_dim=3).encode([]).shape == (0, 3)


def test_an_empty_list_gives_float32() -> None:
    assert embedder(fake_server()).encode([]).dtype == np.float32


@pytest.mark.parametrize("method", METHODS)
def test_a_list_keeps_its_order(method: str) -> None:
    texts = ["bb", "a", "dddd", "", "ccc"]
    vectors = getattr(embedder(fake_server(max_batch_size=2)), method)(texts)
    assert vectors.tolist() == [vector(text) for text in texts]


@pytest.mark.parametrize("texts", [("a", "bb"), np.array(["a", "bb"]), (text for text in ["a", "bb"])])
def test_tuples_arrays_and_generators_are_lists_too(texts: Any) -> None:
    assert embedder(fake_server()).encode(texts).tolist() == [vector("a"), vector("bb")]


def test_vectors_are_float32() -> None:
    assert embedder(fake_server()).encode(["a"]).dtype == np.float32


def test_vectors_can_be_written_to() -> None:
    vectors = embedder(fake_server()).encode("ab")
    vectors += 1
    assert vectors.tolist() == [3, 98, 99, 196]


@pytest.mark.parametrize(
    ("method", "argument"), zip(METHODS, ["sentences", "queries", "corpus", "sentences"], strict=True)
)
def test_an_element_that_is_no_str_is_named_by_argument_and_index(method: str, argument: str) -> None:
    with pytest.raises(TypeError, match=rf"^{argument}\[1\] is None"):
        getattr(embedder(fake_server()), method)(["a", None])


@pytest.mark.parametrize(
    ("method", "argument"), zip(METHODS, ["sentences", "queries", "corpus", "sentences"], strict=True)
)
def test_flagembeddings_argument_names_are_keywords(method: str, argument: str) -> None:
    assert getattr(embedder(fake_server()), method)(**{argument: "ab"}).tolist() == vector("ab")


def test_nothing_is_sent_when_a_text_is_refused() -> None:
    fake = fake_server()
    with pytest.raises(TypeError):
        embedder(fake).encode(["a", 3])  # type: ignore[list-item]
    assert fake.requests == []


def test_a_lone_surrogate_is_named_by_index() -> None:
    with pytest.raises(ValueError, match=r"queries\[1\] holds a lone surrogate, U\+D83D"):
        embedder(fake_server()).encode_queries(["a", LONE_SURROGATE])


# How a list is split.


def test_batch_size_splits_a_list() -> None:
    fake = fake_server()
    embedder(fake, batch_size=2).encode(["a", "bb", "ccc"])
    assert [texts_of(request) for request in fake.requests] == [["ccc", "bb"], ["a"]]


def test_the_calls_batch_size_goes_before_the_objects() -> None:
    fake = fake_server()
    embedder(fake, batch_size=2).encode(["a", "bb", "ccc"], batch_size=1)
    assert [texts_of(request) for request in fake.requests] == [["ccc"], ["bb"], ["a"]]


def test_the_deployments_batch_size_splits_a_list_too() -> None:
    fake = fake_server(max_batch_size=2)
    embedder(fake, batch_size=256).encode(["a", "bb", "ccc"])
    assert [len(texts_of(request)) for request in fake.requests] == [2, 1]


def test_instructions_count_among_the_bytes_of_a_request() -> None:
    # 3 texts of 20,000 characters fit 65,536; with 10,000 more each only two do.
    fake = fake_server()
    texts = ["x" * 20_000] * 3
    embedder(fake).encode(texts)
    embedder(fake).encode(texts, instruction="i" * 10_000)
    assert [len(texts_of(request)) for request in fake.requests] == [3, 2, 1]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}, expected at least 1"):
        embedder(fake_server()).encode(["a"], batch_size=batch_size)


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


# What comes out.


@pytest.mark.parametrize("method", METHODS)
def test_torch_tensors_can_be_asked_for(method: str) -> None:
    torch = pytest.importorskip("torch")
    vectors = getattr(embedder(fake_server()), method)(["ab"], convert_to_numpy=False)
    assert isinstance(vectors, torch.Tensor)
    assert vectors.tolist() == [[2, 97, 98, 195]]


def test_a_str_gives_a_torch_tensor_of_one_dimension() -> None:
    pytest.importorskip("torch")
    assert embedder(fake_server(), convert_to_numpy=False).encode("ab").shape == (DIMENSION,)


def test_the_calls_convert_to_numpy_goes_before_the_objects() -> None:
    model = embedder(fake_server(), convert_to_numpy=False)
    assert isinstance(model.encode("a", convert_to_numpy=True), np.ndarray)


def test_torch_tensors_without_torch_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="pip install torch"):
        embedder(fake_server()).encode("a", convert_to_numpy=False)


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_shown_when_the_call_wishes(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(embedder(fake_server(max_batch_size=1)), method)(["a", "bb"], show_progress=True)
    assert "2/2" in capsys.readouterr().err


def test_progress_is_shown_when_the_object_wishes(capsys: pytest.CaptureFixture[str]) -> None:
    embedder(fake_server(max_batch_size=1), show_progress=True).encode(["a", "bb"])
    assert "2/2" in capsys.readouterr().err


def test_progress_is_not_shown_when_the_call_does_not_wish(capsys: pytest.CaptureFixture[str]) -> None:
    embedder(fake_server(max_batch_size=1), show_progress=True).encode(["a", "bb"], show_progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["show_progress_bar", "foo"])
def test_an_unknown_argument_of_a_call_is_refused(method: str, name: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        getattr(embedder(fake_server()), method)("a", **{name: True})


def test_padding_to_a_multiple_is_accepted_and_changes_nothing() -> None:
    assert embedder(fake_server()).encode("ab", pad_to_multiple_of=8).tolist() == vector("ab")


# What is refused, and what is warned of.


def test_flagembeddings_defaults_give_no_warning() -> None:
    assert warnings_of(lambda: embedder(fake_server(precision="fp16", device="gpu:0"))) == []


def test_a_name_that_is_not_served_is_an_error() -> None:
    with pytest.raises(ModelNotServedError, match="'bge-m3' is not served at fake://; served there: bge-base-en-v1"):
        embedder(fake_server(), "BAAI/bge-m3")


def test_another_pooling_is_refused_with_how_to_deploy_it() -> None:
    command = f"flagtriton add BAAI/{NAME} --name {NAME} --repository REPOSITORY --force --pooling cls"
    with pytest.raises(DeploymentMismatchError, match=command):
        embedder(fake_server(pooling_method="mean"))


def test_another_class_is_refused() -> None:
    with pytest.raises(DeploymentMismatchError, match="served as embed encoder-only-m3; this class expects"):
        embedder(fake_server(model_class="encoder-only-m3"))


@pytest.mark.parametrize("argument", ["query_max_length", "passage_max_length"])
def test_a_length_beyond_the_deployments_is_refused_with_how_to_deploy_it(argument: str) -> None:
    command = f"{argument}=1024, .* add BAAI/{NAME} --name {NAME} --repository REPOSITORY --force --max-length 1024"
    with pytest.raises(DeploymentMismatchError, match=command):
        embedder(fake_server(), **{argument: 1024})


@pytest.mark.parametrize(
    ("asked", "deployed", "message"),
    [
        ({"devices": "cpu"}, {"device": "gpu:0"}, "devices='cpu', served on cuda:0"),
        ({"use_bf16": True}, {"precision": "fp16"}, "use_bf16=True, served in fp16"),
        ({"use_fp16": False}, {"precision": "bf16"}, "use_fp16=False, served in bf16"),
        ({"trust_remote_code": True}, {}, "trust_remote_code=True, served with False"),
    ],
)
def test_a_difference_is_one_warning_naming_both_sides(
    asked: dict[str, Any], deployed: dict[str, Any], message: str
) -> None:
    caught = warnings_of(lambda: embedder(fake_server(**deployed), **asked))
    assert [(one.category, str(one.message)) for one in caught] == [(DeploymentWarning, f"{NAME}: {message}")]


def test_all_differences_of_one_object_are_one_warning() -> None:
    fake = fake_server(precision="bf16", device="gpu:0")
    assert len(warnings_of(lambda: embedder(fake, use_fp16=False, devices="cpu", cache_dir="/tmp", foo=1))) == 1


def test_unknown_arguments_of_the_constructor_are_one_warning() -> None:
    caught = warnings_of(lambda: embedder(fake_server(), fp16=False, device="cuda"))
    assert [str(one.message) for one in caught] == [f"{NAME}: no such argument here, ignored: fp16, device"]


def test_unknown_arguments_of_the_constructor_become_attributes() -> None:
    with pytest.warns(DeploymentWarning):
        model = embedder(fake_server(), examples_for_task=["e"])
    assert (model.examples_for_task, model.kwargs) == (["e"], {"examples_for_task": ["e"]})  # type: ignore[attr-defined]


def test_passage_instructions_are_no_unknown_arguments() -> None:
    def make() -> FlagModel:
        return embedder(fake_server(), passage_instruction_for_retrieval="p", passage_instruction_format="{} {}")

    assert warnings_of(make) == []


def test_a_warning_points_at_the_callers_line() -> None:
    [caught] = warnings_of(lambda: FlagModel(NAME, use_fp16=False, transport=fake_server(precision="bf16")))
    assert Path(caught.filename) == Path(__file__)


# Trouble on the way.


@pytest.mark.parametrize("failure", [ServerUnavailableError("busy"), RequestTimeoutError("late")])
def test_a_busy_or_late_server_is_asked_again(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: lambda seconds: None)
    fake = fake_server(failing_first(failure, failure))
    assert embedder(fake).encode("ab").tolist() == vector("ab")
    assert len(fake.requests) == 3


def test_a_busy_server_is_given_up_after_the_asked_number_of_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: lambda seconds: None)
    fake = fake_server(failing_first(*[ServerUnavailableError("busy")] * 9))
    with pytest.raises(ServerUnavailableError, match="busy"):
        embedder(fake, retries=2).encode("a")
    assert len(fake.requests) == 3


def test_a_refused_request_is_not_sent_again() -> None:
    fake = fake_server(failing_first(InvalidRequestError("option 'max_length' is 9999")))
    with pytest.raises(InvalidRequestError, match="option 'max_length' is 9999"):
        embedder(fake).encode("a", max_length=9999)
    assert len(fake.requests) == 1


# Life cycle and the rest of FlagEmbedding's surface.


def test_leaving_the_context_closes_the_connections() -> None:
    fake = fake_server()
    with embedder(fake) as model:
        model.encode("a")
        assert not fake.closed
    assert fake.closed


def test_the_object_is_usable_after_stop_self_pool() -> None:
    model = embedder(fake_server(max_batch_size=1))
    model.encode(["a", "bb"])
    model.stop_self_pool()
    assert model.encode(["a", "bb"]).tolist() == [vector("a"), vector("bb")]
    model.close()


def test_target_devices_are_the_deployments() -> None:
    assert embedder(fake_server(device="gpu:0,1")).target_devices == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("devices", "names"), [(None, ["cpu"]), ("cpu", ["cpu"]), (1, ["cuda:1"]), ([0, 1], ["cuda:0", "cuda:1"])]
)
def test_get_target_devices_names_them_as_flagembedding_does(devices: Any, names: list[str]) -> None:
    assert FlagModel.get_target_devices(devices) == names


def test_the_default_pooling_is_flagembeddings() -> None:
    assert FlagModel.DEFAULT_POOLING_METHOD == "cls"


def test_no_pooling_asked_shows_what_is_served() -> None:
    assert embedder(fake_server(pooling_method="mean"), pooling_method=None).pooling_method == "mean"


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
    }
    model = embedder(fake_server(), f"BAAI/{NAME}", **given)
    assert {name: getattr(model, name) for name in given} == given
    assert model.model_name_or_path == f"BAAI/{NAME}"


# Beside FlagEmbedding 1.4.2 itself.


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["__init__", "encode_queries", "encode_corpus", "encode_single_device"])
def test_the_reference_has_the_same_signature(method: str) -> None:
    from FlagEmbedding import FlagModel as Reference

    assert parameters_of(getattr(FlagModel, method)) == parameters_of(getattr(Reference, method))


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_has_the_same_signature_of_encode() -> None:
    # AbsEmbedder names the two instruction arguments; FlagModel's own `encode` passes them on in its **kwargs.
    from FlagEmbedding.abc.inference import AbsEmbedder as Reference

    assert parameters_of(FlagModel.encode) == parameters_of(Reference.encode)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("devices", ["cpu", "cuda:1", ["cpu", "cpu"], ["cuda:0"]])
def test_the_reference_names_devices_the_same_way(devices: Any) -> None:
    from FlagEmbedding import FlagModel as Reference

    assert FlagModel.get_target_devices(devices) == Reference.get_target_devices(devices)
