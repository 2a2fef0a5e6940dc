# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.loading.adapters`: LoRA weights merged into a tiny decoder, against PEFT's own forward pass."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel

from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.loading.adapters import merge_adapter
from flagtriton_server.loading.encoder import load_encoder
from tests.support.checkpoints.tiny import make_decoder

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # peft's own

IDS = torch.tensor([[1, 40, 41, 42, 2]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("checkpoints") / "mistral", "mistral")


def trained(model: Any, folder: Path) -> Any:
    """Write a LoRA adapter with random weights for a model; return PEFT's wrapped model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)  # LoRA begins with a product of zero
    wrapped.save_pretrained(folder)
    return wrapped.eval()


def states(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).last_hidden_state


def test_a_merged_adapter_answers_as_peft_does_and_leaves_no_trace(checkpoint: Path, tmp_path: Path) -> None:
    expected = states(trained(AutoModel.from_pretrained(checkpoint), tmp_path))
    plain = AutoModel.from_pretrained(checkpoint).eval()
    before = states(plain)
    merged = merge_adapter(plain, str(tmp_path))
    assert (states(merged) - expected).abs().max() < 1e-5
    assert (before - expected).abs().max() > 0.1
    assert not any("lora" in name for name, _ in merged.named_modules())


def test_an_adapter_of_a_model_with_a_head_fits_the_bare_one(checkpoint: Path, tmp_path: Path) -> None:
    headed = trained(AutoModelForCausalLM.from_pretrained(checkpoint), tmp_path)
    expected = states(headed.base_model.model.model)
    merged = merge_adapter(AutoModel.from_pretrained(checkpoint).eval(), str(tmp_path))
    assert (states(merged) - expected).abs().max() < 1e-5


def test_the_encoder_is_loaded_with_its_adapter_and_packed(checkpoint: Path, tmp_path: Path) -> None:
    expected = states(trained(AutoModel.from_pretrained(checkpoint), tmp_path))
    settings = EncoderSettings(str(checkpoint), 512, 1024, precision="fp32", peft=str(tmp_path))
    encoder = load_encoder(settings, torch.device("cpu"))
    from flagtriton_server.engines.base import forward

    with torch.inference_mode():
        packed = forward(encoder, IDS[0].numpy(), torch.tensor([IDS.shape[1]]).numpy())
    assert encoder.packed
    assert (packed - expected[0]).abs().max() < 1e-5


def test_an_adapter_of_another_model_is_refused_by_a_weights_name(checkpoint: Path, tmp_path: Path) -> None:
    trained(AutoModel.from_pretrained(checkpoint), tmp_path)
    sizes = {"vocab_size": 50, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    with pytest.raises(ValueError, match=r"q_proj|does not fit|not found in the base model"):
        merge_adapter(BertModel(BertConfig(**sizes, intermediate_size=96)), str(tmp_path))


def test_an_adapter_of_more_layers_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    trained(AutoModel.from_pretrained(checkpoint), tmp_path)
    shorter = AutoModel.from_pretrained(checkpoint, num_hidden_layers=2)
    with pytest.raises(ValueError, match=r"does not fit: base_model\.model\.layers\.2\..* is in the adapter alone"):
        merge_adapter(shorter, str(tmp_path))


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"the adapter mine needs peft: pip install 'flagtriton\[peft\]'"):
        merge_adapter(torch.nn.Linear(1, 1), "mine")
