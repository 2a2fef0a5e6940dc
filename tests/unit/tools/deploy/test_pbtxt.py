# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.deploy.pbtxt`: configurations through Triton's own protobuf, read back as they were written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from flagtriton.protocol.tensors import DENSE_VECS, HIDDEN_STATES, INPUT_IDS, TEXT, TOKEN_COUNT, TensorSpec
from flagtriton_tools.deploy.pbtxt import (
    Device,
    EnsembleStep,
    ensemble_config,
    read_config,
    step_config,
    to_pbtxt,
)
from flagtriton_tools.errors import ToolError


def step(**changes: Any) -> ModelConfig:
    arguments: dict[str, Any] = {
        "inputs": [INPUT_IDS],
        "outputs": [HIDDEN_STATES],
        "max_batch_size": 8,
        "device": Device(),
        "parameters": {},
    }
    return step_config(**{**arguments, **changes})


def ensemble(parameters: Mapping[str, str] | None = None) -> ModelConfig:
    return ensemble_config(
        inputs=[TEXT],
        outputs=[DENSE_VECS],
        max_batch_size=8,
        steps=[
            EnsembleStep("x_tokenizer", {"text": "text"}, {"input_ids": "ids"}),
            EnsembleStep("x_encoder", {"input_ids": "ids"}, {"dense_vecs": "dense_vecs"}),
        ],
        parameters=parameters or {},
    )


def written_and_read(config: ModelConfig, folder: Path) -> ModelConfig:
    (folder / "config.pbtxt").write_text(to_pbtxt(config), encoding="utf-8")
    return read_config(folder / "config.pbtxt")


def test_a_steps_configuration_is_read_back_equal(tmp_path: Path) -> None:
    config = step(
        device=Device((0, 1), 2),
        parameters={"max_length": "512"},
        warmup_tokens=[16],
    )
    assert written_and_read(config, tmp_path) == config


def test_an_ensembles_configuration_is_read_back_equal(tmp_path: Path) -> None:
    config = ensemble({"task": "embed"})
    assert written_and_read(config, tmp_path) == config


@pytest.mark.parametrize(
    "value", ["Instruct: {}\nQuery: {}", 'a "quoted" \\n \\ word', "为这个句子：", "\t é", "", "a'b"]
)
def test_a_parameter_is_read_back_to_the_letter(tmp_path: Path, value: str) -> None:
    read = written_and_read(step(parameters={"instruction": value}), tmp_path)
    assert read.parameters["instruction"].string_value == value


def test_the_same_content_is_the_same_text_whatever_the_order_it_came_in() -> None:
    forwards = {"a": "1", "b": "2", "c": "3"}
    backwards = dict(reversed(forwards.items()))
    assert to_pbtxt(step(parameters=forwards)) == to_pbtxt(step(parameters=backwards))


def test_text_outside_ascii_is_legible_in_the_file() -> None:
    assert "为这个句子" in to_pbtxt(step(parameters={"instruction": "为这个句子"}))


def test_a_configuration_does_not_name_its_model() -> None:
    # Triton refuses to load a name that is not the folder's.
    assert step().name == ensemble().name == ""


def test_a_step_runs_in_the_python_backend_with_dynamic_batching() -> None:
    config = step()
    assert config.backend == "python"
    assert config.HasField("dynamic_batching")


def test_a_step_does_not_wait_for_more_requests() -> None:
    assert step().dynamic_batching.max_queue_delay_microseconds == 0


def test_an_ensemble_is_no_backends_and_has_no_batcher() -> None:
    config = ensemble()
    assert (config.platform, config.backend) == ("ensemble", "")
    assert not config.HasField("dynamic_batching")


def test_an_ensembles_steps_map_their_tensors_to_the_ensembles() -> None:
    first, second = ensemble().ensemble_scheduling.step
    assert (first.model_name, first.model_version) == ("x_tokenizer", 1)
    assert dict(first.output_map) == dict(second.input_map) == {"input_ids": "ids"}


@pytest.mark.parametrize("tensor", [INPUT_IDS, HIDDEN_STATES])
def test_an_input_of_varying_length_may_be_ragged(tensor: TensorSpec) -> None:
    assert step(inputs=[tensor]).input[0].allow_ragged_batch


@pytest.mark.parametrize("tensor", [TEXT, TOKEN_COUNT])
def test_an_input_of_fixed_length_is_not_ragged(tensor: TensorSpec) -> None:
    assert not step(inputs=[tensor]).input[0].allow_ragged_batch


@pytest.mark.parametrize(
    ("tensor", "data_type", "dims"),
    [
        (TEXT, DataType.TYPE_STRING, [1]),
        (INPUT_IDS, DataType.TYPE_INT32, [-1]),
        (HIDDEN_STATES, DataType.TYPE_UINT8, [-1, -1]),
    ],
)
def test_tensors_keep_their_type_and_dimensions(tensor: TensorSpec, data_type: int, dims: list[int]) -> None:
    config = step(inputs=[tensor], outputs=[tensor])
    for written in (config.input[0], config.output[0]):
        assert (written.name, written.data_type, list(written.dims)) == (tensor.name, data_type, dims)


def test_instances_on_the_processor_are_counted_and_have_no_gpu() -> None:
    (group,) = step(device=Device((), 3)).instance_group
    assert (group.kind, group.count, list(group.gpus)) == (ModelInstanceGroup.KIND_CPU, 3, [])


def test_instances_on_gpus_are_counted_on_each() -> None:
    (group,) = step(device=Device((0, 2), 3)).instance_group
    assert (group.kind, group.count, list(group.gpus)) == (ModelInstanceGroup.KIND_GPU, 3, [0, 2])


def test_tritons_queue_has_neither_bounds_nor_priorities() -> None:
    batching = step().dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert (batching.priority_levels, batching.default_priority_level) == (0, 0)


def test_a_step_is_not_warmed_up_unless_told() -> None:
    assert not step().model_warmup


def test_warm_up_requests_are_zeros_of_the_lengths_told() -> None:
    warmups = step(warmup_tokens=[16, 256]).model_warmup
    assert [list(warmup.inputs["input_ids"].dims) for warmup in warmups] == [[16], [256]]
    assert all(warmup.inputs["input_ids"].zero_data for warmup in warmups)
    assert {warmup.inputs["input_ids"].data_type for warmup in warmups} == {DataType.TYPE_INT32}


def test_a_file_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("backend: [", encoding="utf-8")
    with pytest.raises(ToolError, match=r"config\.pbtxt does not parse"):
        read_config(tmp_path / "config.pbtxt")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_bytes(b'backend: "\xff"')
    with pytest.raises(ToolError, match=r"config\.pbtxt"):
        read_config(tmp_path / "config.pbtxt")


@pytest.mark.parametrize(
    ("text", "device"), [("cpu", Device((), 2)), ("gpu:0", Device((0,), 2)), ("gpu:0,3", Device((0, 3), 2))]
)
def test_devices_are_the_processor_or_gpus_by_number(text: str, device: Device) -> None:
    assert Device.parse(text, 2) == device


@pytest.mark.parametrize("text", ["cpu", "gpu:0", "gpu:0,3"])
def test_a_device_is_written_as_it_was_read(text: str) -> None:
    assert str(Device.parse(text, 1)) == text


@pytest.mark.parametrize(
    "text", ["", "gpu", "gpu:", "gpu:0,", "gpu:,1", "gpu:-1", "gpu:a", "gpu: 0", "cuda:0", "cpu:0", "CPU", "0"]
)
def test_another_device_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ToolError, match="expected cpu, or gpu: and the GPUs' numbers") as refused:
        Device.parse(text, 1)
    assert f"--device is {text!r}" in str(refused.value)
