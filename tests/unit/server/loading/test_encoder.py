# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.loading.encoder`: which dtypes a precision means, and what a checkpoint's weights become."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flagtriton.protocol import deployment as processor
from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.engines.base import LoadedEncoder, Precision
from flagtriton_server.engines.torch_packed.fused_bert import BertBlock
from flagtriton_server.loading import encoder as loading
from flagtriton_server.loading.encoder import choose_precision, load_encoder
from flagtriton_server.loading.packing_check import one_answer
from tests.support.checkpoints.tiny import make_bert

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
FP32 = Precision("fp32", torch.float32, torch.float32)
FP16 = Precision("fp16", torch.float16, torch.float16)
BF16 = Precision("bf16", torch.bfloat16, torch.bfloat16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("checkpoints") / "tiny")


def load(checkpoint: Path, precision: str = "fp32", max_length: int = 512) -> LoadedEncoder:
    settings = EncoderSettings(str(checkpoint), max_length, token_budget=64, precision=precision)
    return load_encoder(settings, CPU)


def processor_with(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    cpuinfo = f"processor\t: 0\nmodel name\t: made up\nflags\t\t: {flags}\nbugs\t\t: none\n"

    def opened(path: str, **_: Any) -> io.StringIO:
        assert path == "/proc/cpuinfo"
        return io.StringIO(cpuinfo)

    monkeypatch.setattr(processor, "open", opened, raising=False)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_fp32_and_bf16_are_stored_and_computed_alike_everywhere(name: str, device: torch.device) -> None:
    assert choose_precision(name, device) == {"fp32": FP32, "bf16": BF16}[name]


def test_fp16_on_cuda_is_stored_and_computed_in_fp16() -> None:
    assert choose_precision("fp16", CUDA) == FP16


def test_fp16_on_a_cpu_is_stored_in_fp16_and_computed_in_fp32() -> None:
    assert choose_precision("fp16", CPU) == Precision("fp16", torch.float16, torch.float32)


def test_auto_on_cuda_is_fp16_for_an_encoder() -> None:
    assert choose_precision("auto", CUDA) == FP16


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16"])
def test_auto_on_a_cpu_that_computes_in_bf16_is_bf16(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    processor_with(monkeypatch, f"fpu avx2 {flag} sse")
    assert choose_precision("auto", CPU) == BF16


@pytest.mark.parametrize("flags", ["fpu avx2 avx512f", "", "not_amx_bf16"])
def test_auto_on_another_cpu_is_fp32(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    processor_with(monkeypatch, flags)
    assert choose_precision("auto", CPU) == FP32


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_another_name_is_refused_with_the_four_there_are(device: torch.device) -> None:
    with pytest.raises(ValueError, match="precision is 'int8'; expected auto, fp32, fp16, bf16"):
        choose_precision("int8", device)


def test_a_checkpoint_is_described_by_its_configuration(checkpoint: Path) -> None:
    encoder = load(checkpoint)
    vocab_size = load_file(checkpoint / "model.safetensors")["embeddings.word_embeddings.weight"].shape[0]
    assert (encoder.vocab_size, encoder.pad_token_id, encoder.hidden_size) == (vocab_size, 0, 48)


def test_a_module_is_loaded_for_inference_without_dropout(checkpoint: Path) -> None:
    assert not any(module.training for module in load(checkpoint).module.modules())


def test_the_layer_over_cls_that_no_embedder_reads_is_dropped(checkpoint: Path) -> None:
    assert not [name for name, _ in load(checkpoint).module.named_parameters() if name.startswith("pooler")]


every_precision = pytest.mark.parametrize(
    ("precision", "stored", "computed"),
    [
        ("fp32", torch.float32, torch.float32),
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("fp16", torch.float16, torch.float32),
    ],
)


@every_precision
def test_weights_are_the_checkpoints_rounded_to_the_precision(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, precision: str, stored: torch.dtype, computed: torch.dtype
) -> None:
    monkeypatch.setattr(loading, "attention_path", lambda *_: "padded")  # the module as transformers has it
    written = load_file(checkpoint / "model.safetensors")
    loaded = dict(load(checkpoint, precision).module.named_parameters())
    assert set(loaded) == {name for name in written if not name.startswith("pooler.")}
    for name, weights in loaded.items():
        assert weights.dtype == computed
        assert torch.equal(weights, written[name].to(stored).to(computed)), name


@every_precision
def test_fused_layers_have_the_checkpoints_weights_rounded_to_the_precision(
    checkpoint: Path, precision: str, stored: torch.dtype, computed: torch.dtype
) -> None:
    written = load_file(checkpoint / "model.safetensors")
    layers = load(checkpoint, precision).module.encoder.layer
    assert [type(layer) for layer in layers] == [BertBlock] * 3
    for index, block in enumerate(layers):
        attention = f"encoder.layer.{index}.attention"
        for fused, names in {
            block.query_key_value: [f"{attention}.self.{part}" for part in ("query", "key", "value")],
            block.output: [f"{attention}.output.dense"],
            block.up: [f"encoder.layer.{index}.intermediate.dense"],
            block.down: [f"encoder.layer.{index}.output.dense"],
        }.items():
            weight = fused.weight.to_dense() if fused.weight.is_mkldnn else fused.weight
            assert weight.dtype == fused.bias.dtype == computed
            for kind, got in (("weight", weight), ("bias", fused.bias)):
                whole = torch.cat([written[f"{name}.{kind}"] for name in names])
                assert torch.equal(got, whole.to(stored).to(computed)), (names, kind)


def test_fp16_on_a_cpu_does_round_the_weights(checkpoint: Path) -> None:
    name = "embeddings.word_embeddings.weight"
    rounded = load(checkpoint, "fp16").module.get_parameter(name)
    assert not torch.equal(rounded, load_file(checkpoint / "model.safetensors")[name])


def test_a_deployment_may_be_as_long_as_its_checkpoint(checkpoint: Path) -> None:
    assert load(checkpoint, max_length=512).hidden_size == 48


def test_a_deployment_longer_than_its_checkpoint_is_refused_with_the_remedy(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"positions for 512 tokens.*max_length is 513.*--max-length 512"):
        load(checkpoint, max_length=513)


def with_configuration(checkpoint: Path, folder: Path, **changes: Any) -> Path:
    """Write the same checkpoint with another configuration; return its folder."""
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"return_dict": False},
        {"output_hidden_states": True, "output_attentions": True},
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_2"},
        {"use_cache": True},
    ],
)
def test_how_a_checkpoint_was_once_run_changes_nothing(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    changed = load(with_configuration(checkpoint, tmp_path, **changes))
    assert torch.equal(one_answer(changed), one_answer(load(checkpoint)))


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        (
            {"vocab_size": 100},
            r"word_embeddings\.weight of shape \[\d+, 48\], and by its config\.json it has \[100, 48\]",
        ),
        ({"intermediate_size": 64}, r"of shape \[96\], and by its config\.json it has \[64\] \(9 such weights\)"),
        ({"position_embedding_type": "relative_key"}, r"'relative_key', which transformers 5 does not compute"),
    ],
)
def test_a_configuration_that_is_not_the_weights_is_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], refused: str
) -> None:
    with pytest.raises(ValueError, match=refused):
        load(with_configuration(checkpoint, tmp_path, **changes))


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        load(tmp_path / "gone")


def test_a_checkpoint_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        load(tmp_path)


def test_a_checkpoint_without_weights_is_an_os_error(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint / "config.json", tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load(tmp_path)


def test_a_checkpoint_that_lacks_weights_is_refused_not_filled_at_random(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint / "config.json", tmp_path)
    weights = load_file(checkpoint / "model.safetensors")
    del weights["encoder.layer.1.attention.self.query.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .*layer\.1\.attention\.self\.query\.weight the first"):
        load(tmp_path)
