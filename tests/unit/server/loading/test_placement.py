# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.loading.placement`: where weights go, and a word before they do not fit."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import transformers
from torch import nn

from flagtriton.protocol.parameters import write_parameters
from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.engines.base import LoadedEncoder, Precision
from flagtriton_server.loading import encoder as loading
from flagtriton_server.loading import placement
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.loading.placement import check_fit, instance_devices, loading_arguments, weights_bytes
from tests.support.steps.fake_backend import imported_steps
from tests.unit.server.engines.torch_packed.test_architectures import PACKED, save

CPU = torch.device("cpu")
GPUS = [torch.device("cuda", 0), torch.device("cuda", 2)]
GIB = 2**30


def instance(kind: str, number: str = "0") -> dict[str, str]:
    """Return what Triton tells an instance of itself."""
    return {
        "model_name": "tiny_encoder",
        "model_version": "1",
        "model_instance_kind": kind,
        "model_instance_device_id": number,
    }


def free(monkeypatch: pytest.MonkeyPatch, gibibytes: dict[str, float]) -> None:
    monkeypatch.setattr(placement, "_free_bytes", lambda device: int(gibibytes[str(device)] * GIB))


@pytest.mark.parametrize(
    ("kind", "shard", "devices"),
    [
        ("CPU", None, ["cpu"]),
        ("GPU", None, ["cuda:3"]),
        ("MODEL", "0,2", ["cuda:0", "cuda:2"]),
        ("MODEL", "2,0,11", ["cuda:2", "cuda:0", "cuda:11"]),
    ],
)
def test_an_instance_computes_where_triton_puts_it_or_on_all_it_is_spread_over(
    kind: str, shard: str | None, devices: list[str]
) -> None:
    assert [str(device) for device in instance_devices(instance(kind, "3"), shard)] == devices


def test_an_instance_is_on_one_device_unless_told() -> None:
    assert instance_devices(instance("CPU")) == [CPU]


def test_a_processor_needs_no_telling_where_weights_go() -> None:
    assert loading_arguments([CPU]) == {}


def test_one_gpu_gets_all_weights() -> None:
    assert loading_arguments(GPUS[1:]) == {"device_map": {"": GPUS[1]}}


def test_several_gpus_get_weights_by_what_each_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, {"cuda:0": 1, "cuda:2": 3})
    assert loading_arguments(GPUS) == {"device_map": "balanced", "max_memory": {0: GIB, 2: 3 * GIB}}


class Tied(nn.Module):
    """12 weights in one matrix of two names, 5 more, and buffers of 3 whole numbers and 2 others."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(3, 4), nn.Linear(4, 3, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.LayerNorm(5, bias=False)
        self.register_buffer("places", torch.arange(3, dtype=torch.int64))
        self.register_buffer("rates", torch.zeros(2, dtype=torch.float32))


@pytest.mark.parametrize(
    ("dtype", "needed"), [(torch.float32, (12 + 5 + 2) * 4 + 3 * 8), (torch.bfloat16, (12 + 5 + 2) * 2 + 3 * 8)]
)
def test_weights_are_counted_once_and_in_the_dtype_they_will_have(dtype: torch.dtype, needed: int) -> None:
    assert weights_bytes(Tied(), dtype) == needed


def test_weights_are_counted_where_they_take_no_memory() -> None:
    with torch.device("meta"):
        module = Tied()
    assert weights_bytes(module, torch.bfloat16) == (12 + 5 + 2) * 2 + 3 * 8


def test_weights_that_just_fit_are_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, {"cpu": 2, "cuda:0": 1.5, "cuda:2": 0.5})
    check_fit("maker/great", 2 * GIB, "fp32", [CPU])
    check_fit("maker/great", 2 * GIB, "fp32", GPUS)


@pytest.mark.parametrize(
    ("devices", "precision", "sentence"),
    [
        (
            [CPU],
            "fp32",
            "maker/great does not fit: its weights are 14.5 GiB in fp32, and on cpu 2.0 GiB are free; "
            "add it again with --precision bf16, or fewer --instances",
        ),
        (
            GPUS[:1],
            "fp32",
            "maker/great does not fit: its weights are 14.5 GiB in fp32, and on cuda:0 1.5 GiB are free; "
            "add it again with --precision bf16, or fewer --instances, or --shard and more GPUs in --device",
        ),
        (
            GPUS,
            "bf16",
            "maker/great does not fit: its weights are 14.5 GiB in bf16, and on cuda:0, cuda:2 2.0 GiB are free; "
            "add it again with fewer --instances, or --shard and more GPUs in --device",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_there_is_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, devices: list[torch.device], precision: str, sentence: str
) -> None:
    free(monkeypatch, {"cpu": 2, "cuda:0": 1.5, "cuda:2": 0.5})
    with pytest.raises(ValueError) as caught:
        check_fit("maker/great", int(14.5 * GIB), precision, devices)
    assert str(caught.value) == sentence


def test_nobody_is_told_to_choose_the_precision_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, {"cpu": 2})
    with pytest.raises(ValueError, match=r"GiB are free; add it again with fewer --instances$"):
        check_fit("maker/great", 3 * GIB, "bf16", [CPU])


def test_one_byte_too_many_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, {"cpu": 2})
    with pytest.raises(ValueError, match="does not fit"):
        check_fit("maker/great", 2 * GIB + 1, "bf16", [CPU])


def control_group(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Write the files of a control group, their dots as underscores here, in place of this machine's."""
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    monkeypatch.setattr(placement, "_CGROUP", folder)


STAT = "anon 300\nfile 200\ninactive_file 50\nactive_file 30\n"


def machine_has(kibibytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = f"MemTotal: 999 kB\nMemFree: 1 kB\nMemAvailable:   {kibibytes} kB\nCached: 7 kB\n"

    def opened(path: str, **_: Any) -> io.StringIO:
        assert path == "/proc/meminfo"
        return io.StringIO(meminfo)

    monkeypatch.setattr(placement, "open", opened, raising=False)


def test_a_container_has_what_its_limit_leaves_and_the_files_it_can_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_has(100, monkeypatch)
    control_group(tmp_path, monkeypatch, memory_max="1000\n", memory_current="400\n", memory_stat=STAT)
    assert placement._free_bytes(CPU) == 1000 - 400 + 50 + 30


def test_a_container_has_no_more_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_has(100, monkeypatch)
    control_group(tmp_path, monkeypatch, memory_max="999999\n", memory_current="400\n", memory_stat=STAT)
    assert placement._free_bytes(CPU) == 100 * 1024


def test_a_container_over_its_limit_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_has(100, monkeypatch)
    control_group(tmp_path, monkeypatch, memory_max="100\n", memory_current="400\n", memory_stat=STAT)
    assert placement._free_bytes(CPU) == 0


@pytest.mark.parametrize(
    "files",
    [
        {"memory_max": "max\n", "memory_current": "400\n", "memory_stat": STAT},
        {"memory_max": "1000\n", "memory_current": "400\n", "memory_stat": "anon 300\n"},
        {"memory_max": "1000\n", "memory_stat": STAT},
        {"memory_max": "1000\n", "memory_current": "?\n", "memory_stat": STAT},
        {},
    ],
    ids=["no limit", "fields missing", "a file missing", "not a number", "no control group"],
)
def test_without_a_limit_the_machines_memory_is_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    machine_has(100, monkeypatch)
    control_group(tmp_path, monkeypatch, **files)
    assert placement._free_bytes(CPU) == 100 * 1024


def test_this_machine_has_some_memory_free() -> None:
    assert 0 < placement._free_bytes(CPU) < 2**50


def test_a_gpu_has_what_cuda_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.torch.cuda, "mem_get_info", lambda device: (10 * device.index, 999))
    assert placement._free_bytes(GPUS[1]) == 20


def read_weights(*_: object, **__: object) -> NoReturn:
    pytest.fail("its weights were read")


def test_a_checkpoint_that_does_not_fit_is_refused_before_its_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(PACKED["llama"](), tmp_path)
    free(monkeypatch, {"cpu": 0})
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", read_weights)
    with pytest.raises(ValueError, match=r"its weights are 0\.0 GiB in bf16, and on cpu 0\.0 GiB are free"):
        load_encoder(EncoderSettings(str(tmp_path), 32, token_budget=64, precision="bf16"), CPU)


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2), ("fp16", 4)])
def test_a_checkpoint_needs_what_its_weights_are_computed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, size: int
) -> None:
    save(PACKED["llama"](), tmp_path)
    needed: list[int] = []
    monkeypatch.setattr(loading, "check_fit", lambda _, count, *__: needed.append(count))
    encoder = load_encoder(EncoderSettings(str(tmp_path), 32, token_budget=64, precision=precision), CPU)
    as_made = transformers.AutoModel.from_config(PACKED["llama"]())
    rates = sum(buffer.numel() for buffer in as_made.buffers())  # of the rotation
    assert needed == [size * (sum(weight.numel() for weight in encoder.module.parameters()) + rates)]


def test_a_checkpoint_with_its_own_code_is_not_made_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(PACKED["llama"](), tmp_path)
    free(monkeypatch, {"cpu": 0})
    settings = EncoderSettings(str(tmp_path), 32, token_budget=64, precision="fp32", trust_remote_code=True)
    assert load_encoder(settings, CPU).hidden_size == 32


def test_weights_are_read_as_their_devices_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(PACKED["llama"](), tmp_path)
    seen: list[object] = []
    read = transformers.AutoModel.from_pretrained

    def reads(*given: object, **named: Any) -> object:
        seen.append(named["device_map"])
        return read(*given, **named)

    monkeypatch.setattr(loading, "loading_arguments", lambda devices: {"device_map": {"": devices[1]}})
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", reads)
    encoder = load_encoder(EncoderSettings(str(tmp_path), 32, token_budget=64, precision="fp32"), CPU, CPU)
    assert seen == [{"": CPU}]
    assert (encoder.device, encoder.packed) == (CPU, True)


@pytest.mark.parametrize(("kind", "shard", "devices"), [("MODEL", "0,2", GPUS), ("GPU", None, GPUS[1:])])
def test_the_encoder_step_loads_its_checkpoint_where_it_is_told(
    kind: str, shard: str | None, devices: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[torch.device] = []

    def load(_: EncoderSettings, *given: torch.device) -> LoadedEncoder:
        loaded.extend(given)
        return LoadedEncoder(None, given[0], Precision("fp16", torch.float16, torch.float16), 10, 0, 4)

    parameters = write_parameters(EncoderSettings("maker/great", 32, token_budget=64, shard=shard))
    config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    with imported_steps(monkeypatch, "encoder") as steps:
        monkeypatch.setattr(steps.encoder, "load_encoder", load)
        steps.encoder.TritonPythonModel().initialize({"model_config": json.dumps(config), **instance(kind, "2")})
    assert loaded == devices
