# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.heads.classifier` of LLMs: the logit of "Yes" as the whole model gives it, and heads of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.settings import RerankerHeadSettings
from flagtriton_server.errors import RequestError
from flagtriton_server.heads.classifier import RerankerHead
from flagtriton_server.layerwise.decoder import LayerHeads
from flagtriton_server.layerwise.loading import read_spec
from flagtriton_server.loading.encoder import choose_precision
from flagtriton_server.steps.reranker_heads import load_reranker_head
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.checkpoints.tiny import make_decoder

CPU = torch.device("cpu")
LLM, LAYERWISE, LIGHTWEIGHT = "decoder-only-base", "decoder-only-layerwise", "decoder-only-lightweight"
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 1.5},  # below many logits
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
}
IDS = torch.tensor([[1, 40, 41, 42, 43], [1, 90, 17, 200, 5], [1, 8, 9, 60, 111]])


def make_llm(folder: Path, family: str, *, tied: bool = False, **changes: Any) -> Path:
    """Write an LLM with an output layer of its own, or with the embeddings as that; return its folder."""
    make_decoder(folder, family)
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=tied, **{**FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3, generator=generator)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("checkpoints") / "llama", "llama")


@pytest.fixture(scope="module")
def layerwise(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return both kinds, with heads of layers 2 to 6."""
    folder = tmp_path_factory.mktemp("layerwise")
    return {
        LAYERWISE: make_layerwise(folder / "layerwise"),
        LIGHTWEIGHT: make_lightweight(folder / "lightweight", final_logit_softcapping=0.5),
    }


def load(checkpoint: Path, model_class: str = LLM, precision: str = "fp32", peft: Path | None = None) -> RerankerHead:
    settings = RerankerHeadSettings(str(checkpoint), model_class=model_class, peft=None if peft is None else str(peft))
    return load_reranker_head(settings, choose_precision(precision, CPU), CPU)


@torch.inference_mode()
def scored(head: RerankerHead, states: Tensor, **options: Any) -> Tensor:
    return head(states, RerankOptions(**options))


@torch.inference_mode()
def whole(checkpoint: Path) -> tuple[Tensor, Tensor]:
    """Return `[P, 1, D]` the last tokens' vectors and `[P, 1]` their logits of "Yes", by the whole model."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    states = model.base_model(input_ids=IDS).last_hidden_state[:, -1:]
    return states, model(input_ids=IDS).logits[:, -1, yes(checkpoint)][:, None]


def yes(checkpoint: Path) -> int:
    return AutoTokenizer.from_pretrained(checkpoint)("Yes", add_special_tokens=False).input_ids[0]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_whole_models_logit_of_yes(tmp_path: Path, family: str, tied: bool) -> None:
    checkpoint = make_llm(tmp_path / family, family, tied=tied)
    assert any("lm_head" in name for name in load_file(checkpoint / "model.safetensors")) != tied
    states, expected = whole(checkpoint)
    scores = scored(load(checkpoint), states)
    assert scores.shape == (3, 1)
    assert scores.dtype == torch.float32
    assert expected.std() > 0.1
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


def test_gemma_2s_logits_are_capped_once(tmp_path: Path) -> None:
    checkpoint = make_llm(tmp_path / "gemma2", "gemma2")
    uncapped = make_llm(tmp_path / "uncapped", "gemma2", final_logit_softcapping=None)
    states, _ = whole(checkpoint)
    expected = torch.tanh(scored(load(uncapped), states) / 1.5) * 1.5
    assert (expected.abs() > 0.5).any()
    torch.testing.assert_close(scored(load(checkpoint), states), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("precision", "stored"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_head_is_rounded_as_the_encoder_is(llama: Path, precision: str, stored: torch.dtype) -> None:
    states, unrounded = whole(llama)
    row = load_file(llama / "model.safetensors")["lm_head.weight"][yes(llama)]
    states = states.to(stored).float()
    expected = states @ row.to(stored).float()
    scores = scored(load(llama, precision=precision), states)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    assert (scores - unrounded).abs().max() > 1e-4


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_one_row_of_the_output_layer_is_all_that_is_kept(tmp_path: Path, tied: bool) -> None:
    score = load(make_llm(tmp_path / "gemma", "gemma", tied=tied))
    (model,) = (cell.cell_contents for cell in score.__closure__ if isinstance(cell.cell_contents, nn.Module))
    assert [tuple(tensor.shape) for tensor in (*model.parameters(), *model.buffers())] == [(1, 48)]


def test_a_checkpoint_without_an_output_layer_is_refused(tmp_path: Path) -> None:
    checkpoint = make_llm(tmp_path / "llama", "llama")
    weights = load_file(checkpoint / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks lm_head\.weight; it is no reranker of this class"):
        load(checkpoint)


def of_words(*words: str) -> Tokenizer:
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(("<unk>", *words))}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


NOT_YES = {
    "unknown": of_words("yes", "No", "Yesterday"),
    "nothing": Tokenizer(models.BPE({"a": 0, "b": 1}, [])),
    "known in part": Tokenizer(models.BPE({"<unk>": 0, "Y": 1, "e": 2}, [], unk_token="<unk>")),
}


@pytest.mark.parametrize("backend", NOT_YES.values(), ids=NOT_YES)
def test_a_tokenizer_without_yes_is_refused(tmp_path: Path, backend: Tokenizer) -> None:
    checkpoint = make_llm(tmp_path / "llama", "llama")
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(checkpoint)
    with pytest.raises(ValueError, match='llama has no token for "Yes", whose logit is an LLM reranker\'s score'):
        load(checkpoint)


def test_the_first_of_several_tokens_of_yes_is_the_answer(tmp_path: Path) -> None:
    checkpoint = make_llm(tmp_path / "llama", "llama")
    backend = Tokenizer(models.BPE({"s": 0, "Y": 1, "e": 2, "Ye": 3}, [("Y", "e")]))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(checkpoint)
    assert yes(checkpoint) == 3
    states, expected = whole(checkpoint)
    torch.testing.assert_close(scored(load(checkpoint), states), expected, rtol=0, atol=1e-5)


def adapter(model: nn.Module, folder: Path, **options: Any) -> Path:
    """Write an adapter of a model whose heads and LoRA matrices are random; return its folder."""
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, **options))
    torch.manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "modules_to_save" in name:
            parameter.data.normal_()
    wrapped.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_an_output_layer_that_an_adapter_brings_is_used(llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    trained = adapter(model, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["lm_head"])
    weight = load_file(trained / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    states, own = whole(llama)
    scores = scored(load(llama, peft=trained), states)
    torch.testing.assert_close(scores, states @ weight[yes(llama)], rtol=0, atol=1e-5)
    assert (scores - own).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_without_a_head_leaves_the_checkpoints(llama: Path, tmp_path: Path) -> None:
    trained = adapter(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "adapter", target_modules=["q_proj"])
    states, expected = whole(llama)
    torch.testing.assert_close(scored(load(llama, peft=trained), states), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_changes_the_output_layer_by_lora_is_refused(llama: Path, tmp_path: Path) -> None:
    trained = adapter(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "adapter", target_modules=["lm_head"])
    with pytest.raises(ValueError, match=r"has lm_head\.\S+; of a head it may bring lm_head\.weight alone"):
        load(llama, peft=trained)


def layer_rows(checkpoint: Path) -> Tensor:
    """Return `[5, D]`, the heads of layers 2 to 6."""
    weights = load_file(checkpoint / "model.safetensors")
    return torch.cat([weights[f"lm_head.{place}.linear_head.weight"] for place in range(5)])


def layer_states(count: int) -> Tensor:
    return torch.randn(3, count, 48, generator=torch.Generator().manual_seed(4))


LAYERS = [((2,), [0]), ((6, 2), [0, 4]), ((3, 4, 6), [1, 2, 4]), (None, [4])]


@pytest.mark.parametrize(("layers", "heads"), LAYERS)
def test_a_layerwise_layer_is_scored_by_its_head(
    layerwise: dict[str, Path], layers: tuple[int, ...] | None, heads: list[int]
) -> None:
    states = layer_states(len(heads))
    expected = (states * layer_rows(layerwise[LAYERWISE])[heads]).sum(dim=-1)
    scores = scored(load(layerwise[LAYERWISE], LAYERWISE), states, cutoff_layers=layers)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("layers", "heads"), LAYERS)
def test_lightweight_layers_are_scored_by_the_first_heads_and_capped(
    layerwise: dict[str, Path], layers: tuple[int, ...] | None, heads: list[int]
) -> None:
    states = layer_states(len(heads))
    logits = (states * layer_rows(layerwise[LIGHTWEIGHT])[: len(heads)]).sum(dim=-1)
    scores = scored(load(layerwise[LIGHTWEIGHT], LIGHTWEIGHT), states, cutoff_layers=layers)
    torch.testing.assert_close(scores, torch.tanh(logits / 0.5) * 0.5, rtol=1e-5, atol=1e-5)
    assert logits.abs().max() > 1


@pytest.mark.parametrize("model_class", [LAYERWISE, LIGHTWEIGHT])
def test_vectors_of_another_number_of_layers_are_refused(layerwise: dict[str, Path], model_class: str) -> None:
    head = load(layerwise[model_class], model_class)
    with pytest.raises(RequestError, match=r"^hidden_states is of 3 layers, but the options ask for 2$"):
        scored(head, layer_states(3), cutoff_layers=(2, 4, 4))
    with pytest.raises(RequestError, match=r"'cutoff_layers' has 7, .* its heads are at layers 2 to 6$"):
        scored(head, layer_states(1), cutoff_layers=(7,))


@pytest.mark.parametrize(("precision", "stored"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_layers_heads_are_rounded_and_computed_in_float32(
    layerwise: dict[str, Path], precision: str, stored: torch.dtype
) -> None:
    states = layer_states(2).to(stored)
    expected = (states.double() * layer_rows(layerwise[LAYERWISE])[[0, 4]].to(stored).double()).sum(dim=-1)
    scores = scored(load(layerwise[LAYERWISE], LAYERWISE, precision), states, cutoff_layers=(2, 6))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_layers_heads_that_an_adapter_brings_are_used(layerwise: dict[str, Path], tmp_path: Path) -> None:
    model = LayerHeads(PretrainedConfig(), read_spec(str(layerwise[LAYERWISE]), None, LAYERWISE))
    model.q_proj = nn.Linear(48, 48)  # something for LoRA
    trained = adapter(model, tmp_path, target_modules=["q_proj"], modules_to_save=["linear_head"])
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    name = "base_model.model.lm_head.{}.linear_head.weight"
    save_file({name: tensor for name, tensor in weights.items() if ".4." not in name}, file)
    rows = torch.cat([weights[name.format(place)] for place in range(4)] + [layer_rows(layerwise[LAYERWISE])[4:]])
    scores = scored(load(layerwise[LAYERWISE], LAYERWISE, peft=trained), layer_states(5), cutoff_layers=(2, 3, 4, 5, 6))
    torch.testing.assert_close(scores, (layer_states(5) * rows).sum(dim=-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.0.linear_head.lora_A.weight",
        "lm_head.0.linear_head.lora_B.weight",
        "lm_head.weight",
        "lm_head.5.linear_head.weight",
    ],
)
def test_an_adapter_that_brings_something_else_of_a_layers_head_is_refused(
    layerwise: dict[str, Path], tmp_path: Path, name: str
) -> None:
    pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    width = 1 if "lora_B" in name else 48
    save_file({f"base_model.model.{name}": torch.ones(1, width)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load(layerwise[LAYERWISE], LAYERWISE, peft=tmp_path)
