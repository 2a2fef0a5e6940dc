# SPDX-License-Identifier: Apache-2.0
"""What is not finite: refused at load where any text shows it, else by the one request that it comes from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from flagtriton.protocol.settings import (
    ColbertSettings,
    DenseSparseSettings,
    EncoderSettings,
    HeadSettings,
    LayerwiseSettings,
    PoolerSettings,
    RerankerHeadSettings,
    ScorerSettings,
)
from flagtriton_server.engines.base import Precision
from flagtriton_server.engines.finite import all_finite, check_finite, finite_norms
from flagtriton_server.errors import NotFiniteError, one_by_one
from flagtriton_server.heads.linear import load_colbert_head, load_sparse_head
from flagtriton_server.heads.transfer import to_bytes
from flagtriton_server.layerwise.encode import trial_vectors
from flagtriton_server.layerwise.loading import load_decoder
from flagtriton_server.loading import encoder
from flagtriton_server.loading.encoder import choose_precision, load_encoder
from flagtriton_server.steps.reranker_heads import load_reranker_head
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_m3, make_reranker, make_xlm_roberta
from tests.support.steps.fake_backend import Request, Response, TritonError, ids, imported_steps, responses_of, started

CPU = torch.device("cpu")
HALF = Precision("fp16", torch.float16, torch.float16)
"""As on a GPU, where fp16 is computed in, too."""
NO_NUMBERS = [torch.nan, torch.inf, -torch.inf]
ODD = 6  # not among the random ids of the trial at load
"""A token that no trial at load happens to have."""


def change(checkpoint: Path, name: str, edit: Callable[[torch.Tensor], object]) -> Path:
    """Edit one weight of a checkpoint in place."""
    content = load_file(checkpoint / "model.safetensors")
    edit(content[name])
    save_file(content, checkpoint / "model.safetensors", {"format": "pt"})
    return checkpoint


def load(checkpoint: Path, precision: str = "fp16", **more: Any) -> Any:
    return load_encoder(EncoderSettings(str(checkpoint), 60, token_budget=64, precision=precision, **more), CPU)


# Values.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_one_value_that_is_no_number_is_found(value: float, dtype: torch.dtype) -> None:
    values = torch.ones(3, 4, dtype=dtype)
    assert all_finite(values)
    values[1, 2] = value
    assert not all_finite(values)


def test_of_no_values_all_are_finite() -> None:
    assert all_finite(torch.empty(0, 4))


def test_a_weight_that_lies_elsewhere_passes() -> None:
    assert all_finite(torch.empty(2, 2, device="meta"))


def test_what_is_not_finite_is_named() -> None:
    with pytest.raises(NotFiniteError, match=r"^scores are not finite$"):
        check_finite(np.array([1.0, np.nan]), "scores")
    check_finite(np.array([1.0, 3e38]), "scores")


def test_norms_are_at_least_what_a_zero_vector_is_divided_by() -> None:
    assert finite_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "vectors").tolist() == [[5.0], [pytest.approx(1e-12)]]


@pytest.mark.parametrize(
    ("precision", "advice"),
    [
        ("fp16", "vectors are not finite in fp16; add it with --precision bf16 or fp32"),
        ("bf16", "vectors are not finite in bf16; add it with --precision fp32"),
        ("fp32", "vectors are not finite in fp32; no precision is wider: check the checkpoint's weights"),
    ],
)
def test_a_request_is_told_which_precision_helps(precision: str, advice: str) -> None:
    def answer(vectors: torch.Tensor) -> int:
        check_finite(vectors, "vectors")
        return len(vectors)

    good, bad = torch.ones(2), torch.tensor([torch.nan])
    first, refused, last = one_by_one(answer, [good, bad, good], precision)
    assert (first, last) == (2, 2)
    assert (str(refused), refused.code) == (advice, "INTERNAL")


# At load.

FIRST_WEIGHTS = {
    "packed bert": (make_bert, "encoder.layer.0.output.dense.weight"),
    "packed decoder": (lambda folder: make_decoder(folder, "mistral"), "layers.1.mlp.down_proj.weight"),
}


@pytest.mark.parametrize("kind", FIRST_WEIGHTS)
def test_weights_that_fp16_does_not_hold_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    make, name = FIRST_WEIGHTS[kind]
    checkpoint = change(make(tmp_path / "tiny"), name, lambda weight: weight[0, 0].fill_(70_000))  # fp16 ends at 65,504
    advice = "are not finite in fp16; add it with --precision bf16 or fp32$"
    with pytest.raises(ValueError, match=rf"tiny: values of its weight {name} {advice}"):
        load(checkpoint)
    for precision in ("bf16", "fp32"):
        assert load(checkpoint, precision).packed


def test_a_text_whose_values_pass_fp16_on_the_way_is_found_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "encoder.layer.0.intermediate.dense.bias"
    checkpoint = change(make_bert(tmp_path / "tiny"), name, lambda bias: bias.fill_(6e4))
    change(checkpoint, "encoder.layer.0.output.dense.weight", lambda weight: weight.fill_(1.0))
    assert load(checkpoint) is not None  # on a processor fp16 is computed in float32
    monkeypatch.setattr(encoder, "choose_precision", lambda *_: HALF)
    with pytest.raises(
        ValueError, match=r"hidden states of a short text are not finite in fp16; add it with --precision bf16 or fp32$"
    ):
        load(checkpoint)


def remote(folder: Path) -> dict[str, Any]:
    make_bert(folder)
    return {"trust_remote_code": True}


def scoring(folder: Path) -> dict[str, Any]:
    make_reranker(folder, make_xlm_roberta)
    return {"scores": True}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_row_that_no_trial_reads_is_found_at_load(precision: str, tmp_path: Path) -> None:
    for value, words in ((torch.nan, "holds nan; no precision helps"), (torch.inf, f"not finite in {precision};")):
        checkpoint = make_bert(tmp_path / str(value))
        change(checkpoint, "embeddings.word_embeddings.weight", lambda weight, value=value: weight[ODD].fill_(value))
        with pytest.raises(ValueError, match=rf"its weight embeddings\.word_embeddings\.weight .*{words}"):
            load(checkpoint, precision)


@pytest.mark.parametrize("kind", [remote, scoring])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_padded_models_are_tried_too(
    kind: Callable[[Path], dict[str, Any]], value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = kind(tmp_path / "tiny")
    name = next(name for name in load_file(tmp_path / "tiny" / "model.safetensors") if "layer.1.output.dense.b" in name)
    change(tmp_path / "tiny", name, lambda bias: bias.fill_(value))
    monkeypatch.setattr(encoder, "check_loaded", lambda *_: None)
    with pytest.raises(ValueError, match=r"of a short text are not finite in fp32; no precision is wider"):
        load(tmp_path / "tiny", "fp32", **settings)


def test_a_pseudo_moe_model_is_loaded_whatever_it_computes(tmp_path: Path) -> None:
    checkpoint = change(
        make_decoder(tmp_path / "tiny", "qwen3"), "norm.weight", lambda weight: weight[3].fill_(torch.inf)
    )
    assert load(checkpoint, "fp32", trust_remote_code=True, pseudo_moe=True) is not None


@pytest.mark.parametrize("make", [make_layerwise, make_lightweight])
def test_layered_rerankers_are_tried_at_every_layer_that_has_a_head(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    checkpoint = make(tmp_path / "tiny")
    model_class = {make_layerwise: "decoder-only-layerwise", make_lightweight: "decoder-only-lightweight"}[make]
    settings = LayerwiseSettings(str(checkpoint), model_class, 64, 64, precision="fp32")
    decoder = load_decoder(settings, CPU)
    assert trial_vectors(decoder).shape == (1, len(decoder.spec.head_layers), decoder.spec.hidden_size)
    assert all_finite(trial_vectors(decoder))
    change(checkpoint, "model.norm.weight", lambda weight: weight[0].fill_(torch.inf))
    with pytest.raises(ValueError, match=r"values of its weight norm\.weight are not finite in fp32; no precision"):
        load_decoder(settings, CPU)


def test_layered_weights_that_fp16_does_not_hold_are_refused(tmp_path: Path) -> None:
    checkpoint = make_layerwise(tmp_path / "tiny")
    change(checkpoint, "model.layers.0.mlp.up_proj.weight", lambda weight: weight[0, 0].fill_(70_000))
    settings = LayerwiseSettings(str(checkpoint), "decoder-only-layerwise", 64, 64, precision="fp16")
    with pytest.raises(ValueError, match=r"up_proj\.weight are not finite in fp16; add it with --precision bf16 or"):
        load_decoder(settings, CPU)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_heads_that_fp16_does_not_hold_are_refused(part: str, tmp_path: Path) -> None:
    checkpoint = make_m3(tmp_path / "m3")
    for name in ("sparse_linear", "colbert_linear"):
        head = torch.load(checkpoint / f"{name}.pt")
        head[part].view(-1)[0] = 70_000
        torch.save(head, checkpoint / f"{name}.pt")
    fp16, fp32 = choose_precision("fp16", CPU), choose_precision("fp32", CPU)
    for load_it, settings in (
        (load_sparse_head, HeadSettings(str(checkpoint))),
        (load_colbert_head, ColbertSettings(str(checkpoint))),
    ):
        with pytest.raises(ValueError, match=rf"_linear\.pt: values of its weight {part} are not finite in fp16; add"):
            load_it(settings, fp16, CPU)
        assert load_it(settings, fp32, CPU) is not None


RERANKERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "encoder-only-base": (lambda folder: make_reranker(folder, make_xlm_roberta), "classifier.out_proj.weight"),
    "decoder-only-base": (lambda folder: make_decoder(folder, "llama", head=True), "lm_head.weight"),
    "decoder-only-layerwise": (make_layerwise, "lm_head.0.linear_head.weight"),
}


@pytest.mark.parametrize("model_class", RERANKERS)
def test_rerankers_heads_that_fp16_does_not_hold_are_refused(model_class: str, tmp_path: Path) -> None:
    make, name = RERANKERS[model_class]
    checkpoint = change(make(tmp_path / "tiny"), name, lambda weight: weight.fill_(70_000))
    settings = RerankerHeadSettings(str(checkpoint), model_class=model_class)
    with pytest.raises(ValueError, match="are not finite in fp16; add it with --precision bf16 or fp32"):
        load_reranker_head(settings, choose_precision("fp16", CPU), CPU)
    assert load_reranker_head(settings, choose_precision("fp32", CPU), CPU) is not None


# Requests.


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BGE-M3 whose word `ODD` has so great an embedding that float32 does not hold what comes of it."""
    folder = make_m3(tmp_path_factory.mktemp("checkpoints") / "m3")
    return change(folder, "embeddings.word_embeddings.weight", lambda weight: weight[ODD].fill_(3e38))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    names = ("encoder", "pooler", "dense_sparse", "colbert", "scorer", "reranker_scorer")
    with imported_steps(monkeypatch, *names) as modules:
        yield modules


GOOD, BAD = [[0, 7, 9, 2], [0, 8, 2]], [[0, 7, 9, 2], [0, ODD, 2]]
UNWEIGHTED = np.array([[0, 1, 2, 3]], dtype=np.int32)


def assert_the_second_alone_is_refused(responses: list[Response], named: str) -> None:
    first, refused, last = responses
    message, code = refused.error.args
    assert message == f"{named} are not finite in fp32; no precision is wider: check the checkpoint's weights"
    assert code == TritonError.INTERNAL
    for response in (first, last):
        assert response.error is None
        assert all(np.isfinite(tensor).all() for tensor in response.tensors.values())


def encoder_settings(m3: Path, **more: Any) -> EncoderSettings:
    return EncoderSettings(str(m3), 60, token_budget=64, precision="fp32", **more)


def test_an_encoder_that_pools_refuses_the_one_request(steps: SimpleNamespace, m3: Path) -> None:
    step = started(steps.encoder, encoder_settings(m3, pooling_method="cls"))
    requests = [Request({"input_ids": ids(*texts)}) for texts in (GOOD, BAD, GOOD)]
    assert_the_second_alone_is_refused(responses_of(step, *requests), "components of vectors")


def test_a_text_of_a_refused_request_does_not_change_its_neighbours(steps: SimpleNamespace, m3: Path) -> None:
    step = started(steps.encoder, encoder_settings(m3, pooling_method="cls"))
    (alone,) = responses_of(step, Request({"input_ids": ids(*GOOD)}))
    beside, _ = responses_of(step, *(Request({"input_ids": ids(*texts)}) for texts in (GOOD, BAD)))
    np.testing.assert_allclose(beside.tensors["dense_vecs"], alone.tensors["dense_vecs"], rtol=0, atol=1e-6)


def states(steps: SimpleNamespace, m3: Path) -> list[NDArray[np.uint8]]:
    """Return the hidden states of GOOD, BAD and GOOD, which came together."""
    step = started(steps.encoder, encoder_settings(m3))
    requests = [Request({"input_ids": ids(*texts)}) for texts in (GOOD, BAD, GOOD)]
    return [response.tensors["hidden_states"] for response in responses_of(step, *requests)]


STEPS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pooler": (lambda m3: PoolerSettings("mean", "fp32"), "components of vectors"),
    "dense_sparse": (lambda m3: DenseSparseSettings(str(m3), "fp32"), "lexical weights"),
    "colbert": (lambda m3: ColbertSettings(str(m3), "fp32"), "components of vectors"),
}


@pytest.mark.parametrize("normalize", ["true", "false"])
@pytest.mark.parametrize("name", STEPS)
def test_every_step_of_m3_refuses_the_one_request(steps: SimpleNamespace, m3: Path, name: str, normalize: str) -> None:
    settings, named = STEPS[name]
    step = started(getattr(steps, name), settings(m3))
    requests = [
        Request(
            {"input_ids": ids(*texts), "hidden_states": of_texts, "unweighted_ids": UNWEIGHTED},
            f'{{"normalize": {normalize}}}',
        )
        for texts, of_texts in zip((GOOD, BAD, GOOD), states(steps, m3), strict=True)
    ]
    assert_the_second_alone_is_refused(responses_of(step, *requests), named)


def test_m3s_scores_are_refused_for_the_one_request(steps: SimpleNamespace, m3: Path) -> None:
    step = started(steps.scorer, ScorerSettings(str(m3), "fp32"))
    rows = np.array([[0], [1]], dtype=np.int32)
    good = states(steps, m3)[0]
    requests = [
        Request(
            {
                "query_ids": ids(*GOOD),
                "query_rows": rows,
                "query_states": good,
                "passage_ids": ids(*texts),
                "passage_rows": rows,
                "passage_states": of_texts,
                "unweighted_ids": UNWEIGHTED,
            }
        )
        for texts, of_texts in zip((GOOD, BAD, GOOD), states(steps, m3), strict=True)
    ]
    assert_the_second_alone_is_refused(responses_of(step, *requests), "components of vectors")


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_negative_infinity_is_no_missing_lexical_weight(steps: SimpleNamespace, m3: Path, value: float) -> None:
    step = started(steps.dense_sparse, DenseSparseSettings(str(m3), "fp32"))
    step._head.linear.bias.fill_(value)  # relu makes 0 of -inf, and no comparison with nan is true
    (response,) = responses_of(
        step,
        Request({"input_ids": ids(*GOOD), "hidden_states": states(steps, m3)[0], "unweighted_ids": UNWEIGHTED}),
    )
    assert "lexical weights are not finite" in str(response.error)


@pytest.mark.parametrize("normalize", ["true", "false"])
def test_colbert_vectors_that_the_wires_fp16_does_not_hold_are_refused(
    steps: SimpleNamespace, m3: Path, normalize: str
) -> None:
    step = started(steps.colbert, ColbertSettings(str(m3), "fp32", colbert_dtype="fp16"))
    step._head.linear.bias.fill_(-70_000.0)
    options = f'{{"normalize": {normalize}, "colbert_dtype": "fp16"}}'
    (response,) = responses_of(
        step,
        Request({"input_ids": ids(*GOOD), "hidden_states": states(steps, m3)[0]}, options),
    )
    if normalize == "true":
        assert response.tensors["colbert_vecs"].dtype == np.float16
        assert np.isfinite(response.tensors["colbert_vecs"]).all()
        return
    message, code = response.error.args
    assert message.startswith("components of colbert_vecs reach 700")
    assert message.endswith("float16 ends at 65504; ask for normalize=true, or for colbert_dtype=fp32")
    assert code == TritonError.INTERNAL


@pytest.mark.parametrize("options", ["", '{"normalize": true}'])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_rerankers_score_that_is_no_number_is_refused(
    steps: SimpleNamespace, tmp_path: Path, value: float, options: str
) -> None:
    checkpoint = make_reranker(tmp_path / "tiny", make_bert)
    settings = RerankerHeadSettings(str(checkpoint), precision="fp32", model_class="encoder-only-base")
    step = started(steps.reranker_scorer, settings)
    requests = []
    for number in (1.0, value, -1.0):
        vectors = torch.zeros(2, 1, 48)
        vectors[1, 0, 7] = number
        requests.append(Request({"hidden_states": to_bytes(vectors)}, options))
    if np.isnan(value):
        assert_the_second_alone_is_refused(responses_of(step, *requests), "scores")
        return
    # a tanh makes a number of an infinity there, so here the last layer makes one
    step._logits = lambda states, _: states[:, 0, 7:8].clone()
    assert_the_second_alone_is_refused(responses_of(step, *requests), "scores")


def test_a_copy_of_a_checkpoint_is_as_refused(m3: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(m3, tmp_path / "copy"))
    with pytest.raises(ValueError, match=r"word_embeddings\.weight are not finite in fp16"):
        load(copied)
