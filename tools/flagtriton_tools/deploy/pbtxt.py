# SPDX-License-Identifier: Apache-2.0
"""Reads and writes `config.pbtxt` through Triton's protobuf, independently of the models that are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import (
    DataType,
    ModelConfig,
    ModelEnsembling,
    ModelInstanceGroup,
)

from flagtriton.protocol.tensors import TensorSpec
from flagtriton_tools.errors import ToolError

__all__ = [
    "Device",
    "EnsembleStep",
    "different_fields",
    "ensemble_config",
    "read_config",
    "serving",
    "step_config",
    "string_parameters",
    "to_pbtxt",
]


@dataclass(frozen=True)
class Device:
    """Placement of a step's instances: `count` on the CPU, `count` on each of `gpus`, or one over all `gpus`."""

    gpus: tuple[int, ...] = ()
    count: int = 1
    shard: bool = False

    @classmethod
    def parse(cls, text: str, count: int) -> Device:
        """Return the placement that `cpu` or `gpu:0,1` means.

        Raises:
            ToolError: the text is neither.
        """
        kind, _, numbers = text.partition(":")
        if text == "cpu":
            return cls((), count)
        if kind == "gpu" and all(number.isdecimal() for number in numbers.split(",")):
            return cls(tuple(int(number) for number in numbers.split(",")), count)
        raise ToolError(f"--device is {text!r}; expected cpu, or gpu: and the GPUs' numbers, such as gpu:0,1")

    def __str__(self) -> str:
        return f"gpu:{','.join(map(str, self.gpus))}" if self.gpus else "cpu"


@dataclass(frozen=True)
class EnsembleStep:
    """One step of an ensemble: its model, and the ensemble tensor for each tensor of that model."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str] = field(default_factory=dict)


def step_config(
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_batch_size: int,
    device: Device,
    parameters: Mapping[str, str],
    warmup_tokens: Sequence[int] = (),
    optional_inputs: Sequence[TensorSpec] = (),
) -> ModelConfig:
    """Return the configuration of a Python-backend model with dynamic batching. Triton serves all its versions.

    Args:
        inputs: required inputs; those with a variable dimension may be ragged across the requests of a batch.
        outputs: outputs of the model.
        max_batch_size: maximum number of rows of one execution.
        device: placement of its instances.
        parameters: content of its settings class.
        warmup_tokens: lengths of the warmup requests. Triton runs a request of zeros of each length before the model
            becomes ready.
        optional_inputs: further inputs, of which a request brings some. The step checks which belong together.
    """
    config = ModelConfig(backend="python", max_batch_size=max_batch_size)
    config.version_policy.all.SetInParent()
    for tensor in (*inputs, *optional_inputs):
        ragged = -1 in tensor.dims
        added = config.input.add(name=tensor.name, data_type=_type(tensor), dims=tensor.dims, allow_ragged_batch=ragged)
        added.optional = tensor in optional_inputs
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=_type(tensor), dims=tensor.dims)
    if device.shard:  # the step places the weights itself
        config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_MODEL)
    else:
        kind = ModelInstanceGroup.KIND_GPU if device.gpus else ModelInstanceGroup.KIND_CPU
        config.instance_group.add(count=device.count, kind=kind, gpus=device.gpus)
    config.dynamic_batching.SetInParent()
    for tokens in warmup_tokens:
        warmup = config.model_warmup.add(name=f"{tokens} tokens", batch_size=1)
        for tensor in inputs:
            zeros = warmup.inputs[tensor.name]
            zeros.data_type, zeros.zero_data = _type(tensor), True
            zeros.dims.extend(tokens if dim == -1 else dim for dim in tensor.dims)
    _set_parameters(config, parameters)
    return config


def ensemble_config(
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_batch_size: int,
    steps: Sequence[EnsembleStep],
    parameters: Mapping[str, str],
) -> ModelConfig:
    """Return the configuration of an ensemble that serves version 1."""
    config = ModelConfig(platform="ensemble", max_batch_size=max_batch_size)
    for tensor in inputs:
        config.input.add(name=tensor.name, data_type=_type(tensor), dims=tensor.dims)
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=_type(tensor), dims=tensor.dims)
    config.ensemble_scheduling.CopyFrom(
        ModelEnsembling(
            step=[
                ModelEnsembling.Step(model_name=step.model, input_map=step.inputs, output_map=step.outputs)
                for step in steps
            ]
        )
    )
    _set_parameters(config, parameters)
    return serving(config, 1)


def serving(config: ModelConfig, version: int, parameters: Mapping[str, str] | None = None) -> ModelConfig:
    """Return an ensemble's configuration that serves only one version, with the same version of each step.

    The configuration of a step is the same for all versions and is returned unchanged.

    Args:
        config: configuration of the ensemble or step.
        version: version to serve.
        parameters: new parameters; None keeps the present ones.
    """
    changed = ModelConfig()
    changed.CopyFrom(config)
    if config.platform != "ensemble":
        return changed
    changed.version_policy.specific.versions[:] = [version]
    for step in changed.ensemble_scheduling.step:
        step.model_version = version
    if parameters is not None:
        changed.parameters.clear()
        _set_parameters(changed, parameters)
    return changed


def string_parameters(config: ModelConfig) -> dict[str, str]:
    """Return the parameters of a configuration, all of which are strings."""
    return {name: value.string_value for name, value in config.parameters.items()}


def different_fields(config: ModelConfig, other: ModelConfig) -> list[str]:
    """Return the names of fields that differ, apart from versions and parameters. Triton's own parameters do count."""
    parts = [_beside_versions(each) for each in (config, other)]
    names = [descriptor.name for descriptor in ModelConfig.DESCRIPTOR.fields]
    return [name for name in names if getattr(parts[0], name) != getattr(parts[1], name)]


def to_pbtxt(config: ModelConfig) -> str:
    """Return a configuration as text. The same content gives the same text."""
    return text_format.MessageToString(config, as_utf8=True)


def read_config(path: Path, *, to_be_written: bool = False) -> ModelConfig:
    """Return the configuration in a `config.pbtxt`, without fields that only newer releases of Triton have.

    Args:
        path: file to read.
        to_be_written: True if the result will replace the file. An unknown field is then an error and is not dropped.

    Raises:
        ToolError: the file does not parse.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return text_format.Parse(text, ModelConfig(), allow_unknown_field=not to_be_written)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ToolError(f"{path} does not parse: {error}") from error


def _beside_versions(config: ModelConfig) -> ModelConfig:
    part = serving(config, 1)
    for name in [name for name in part.parameters if not name.isupper()]:
        del part.parameters[name]
    return part


def _type(tensor: TensorSpec) -> int:
    name = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return DataType.Value(name)


def _set_parameters(config: ModelConfig, parameters: Mapping[str, str]) -> None:
    for name, value in parameters.items():
        config.parameters[name].string_value = value
