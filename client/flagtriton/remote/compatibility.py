# SPDX-License-Identifier: Apache-2.0
"""Comparison of a caller's arguments with a deployment: an error if the results differ, else one warning."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from flagtriton.errors import DeploymentMismatchError, DeploymentWarning
from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.remote.model import ServedModel
from flagtriton.types import DeviceSpec, EmbedderModelClass, RerankerModelClass

__all__ = [
    "device_names",
    "frames_to_caller",
    "refuse_mismatch",
    "served_class",
    "served_devices",
    "warn_of_differences",
]

_FACTORIES = {"embed": "FlagAutoModel", "rerank": "FlagAutoReranker"}

C = TypeVar("C", EmbedderModelClass, RerankerModelClass)


def device_names(devices: DeviceSpec) -> list[str]:
    """Return `devices` as FlagEmbedding's device names: `0` is `cuda:0`.

    Raises:
        ValueError: `devices` is neither a string, an integer, nor a list of one of them.
    """
    entries = devices if isinstance(devices, list) else [devices]
    if entries and all(isinstance(entry, str) for entry in entries):
        return ["cuda:0" if entry == "cuda" else str(entry) for entry in entries]
    if entries and all(isinstance(entry, int) for entry in entries):
        return [f"cuda:{entry}" for entry in entries]
    raise ValueError("devices should be a string or an integer or a list of strings or a list of integers.")


def served_devices(deployment: Deployment) -> list[str]:
    """Return a deployment's devices as FlagEmbedding's device names: `gpu:0,1` is `cuda:0`, `cuda:1`."""
    kind, _, numbers = deployment.device.partition(":")
    return [f"cuda:{number}" for number in numbers.split(",")] if kind == "gpu" and numbers else [kind]


def served_class(served: ServedModel, task: str, model_classes: type[C]) -> C:
    """Return the model class of a deployment; close its connection if the class is unknown.

    Args:
        served: the deployment.
        task: `embed` or `rerank`.
        model_classes: the task's model classes.

    Raises:
        DeploymentMismatchError: the deployment has another task, or a class that this version does not know.
    """
    deployment = served.deployment
    if deployment.task != task or deployment.model_class not in {known.value for known in model_classes}:
        served.close()
        kind = {"embed": "embedder", "rerank": "reranker"}[task]
        other = deployment.task != task and deployment.task in _FACTORIES
        raise DeploymentMismatchError(
            f"{served.name} is served as {deployment.task} {deployment.model_class}, for which this version has no "
            f"{kind} class" + (f"; {_FACTORIES[deployment.task]} has one" if other else "")
        )
    return model_classes(deployment.model_class)


def refuse_mismatch(
    name: str,
    deployment: Deployment,
    *,
    model_classes: Sequence[str],
    pooling_method: str | None,
    max_lengths: dict[str, int],
    task: str = "embed",
) -> None:
    """Raise if the deployment's results would differ from those that the caller asks for.

    Args:
        name: name of the deployment.
        deployment: description of the deployment.
        model_classes: model classes that the caller's Python class supports.
        pooling_method: the caller's pooling method; None takes the deployment's.
        max_lengths: the caller's maximal lengths in tokens, by argument name. FlagEmbedding's default of 512 means
            512 or the deployment's, whichever is smaller.
        task: `embed` or `rerank`.

    Raises:
        DeploymentMismatchError: the message names both sides, and the command that deploys the model as asked.
    """
    again = _add_again(name, deployment)
    if deployment.task != task or deployment.model_class not in model_classes:
        raise DeploymentMismatchError(
            f"{name} is served as {deployment.task} {deployment.model_class}; "
            f"this class expects {task} {' or '.join(model_classes)}. {_FACTORIES[deployment.task]} chooses the right "
            f"class{_or_deploy_as(name, deployment, task, model_classes)}"
        )
    if pooling_method is not None and pooling_method != deployment.pooling_method:
        raise DeploymentMismatchError(
            f"{name} is served with pooling_method={deployment.pooling_method!r}, not {pooling_method!r}. "
            f"Pass pooling_method={deployment.pooling_method!r}, or deploy it so: {again} --pooling {pooling_method} "
            "and its other options"
        )
    for argument, length in max_lengths.items():
        if length > deployment.max_length and length != DEFAULT_MAX_LENGTH:
            raise DeploymentMismatchError(
                f"{argument}={length}, but {name} is served with at most {deployment.max_length} tokens. "
                f"Ask for less, or, if the checkpoint has the positions, deploy it so: {again} --max-length {length}"
            )


def _add_again(name: str, deployment: Deployment) -> str:
    return f"flagtriton add {shlex.quote(deployment.checkpoint)} --name {name} --repository REPOSITORY --force"


def _or_deploy_as(name: str, deployment: Deployment, task: str, model_classes: Sequence[str]) -> str:
    """Return advice to deploy the checkpoint as another class of the same architecture; else an empty string."""
    kind = deployment.model_class.partition("-only-")[0]  # encoder or decoder
    candidates = [model_class for model_class in model_classes if model_class.startswith(f"{kind}-only-")]
    if not candidates:
        return ""
    other_task = "" if task == deployment.task else f" --task {task}"
    command = f"{_add_again(name, deployment)}{other_task} --model-class {candidates[0]}"
    return f". If the checkpoint is of the class {candidates[0]}, deploy it so, with its other options: {command}"


def warn_of_differences(
    name: str,
    deployment: Deployment,
    *,
    use_fp16: bool,
    use_bf16: bool,
    bf16_by_default: bool = False,
    devices: DeviceSpec,
    trust_remote_code: bool | None,
    cache_dir: str | None,
    ignored: Sequence[str],
) -> None:
    """Warn once of all arguments that differ from the deployment, and name both sides.

    A class' default precision, such as `use_fp16=True`, permits half precision and never differs.
    """
    served = served_devices(deployment)
    differences = []
    precision = deployment.precision
    precision_text = "auto (the server's log says which precision that is there)" if precision == "auto" else precision
    if use_bf16 and not bf16_by_default and precision != "bf16":
        differences.append(f"use_bf16=True, served in {precision_text}")
    if not use_bf16 and not use_fp16 and precision != "fp32":
        differences.append(f"use_fp16=False, served in {precision_text}")
    if devices is not None and device_names(devices) != served:
        differences.append(f"devices={devices!r}, served on {', '.join(served)}")
    if trust_remote_code is not None and trust_remote_code != deployment.trust_remote_code:
        differences.append(f"trust_remote_code={trust_remote_code}, served with {deployment.trust_remote_code}")
    if cache_dir is not None:
        differences.append(f"cache_dir={str(cache_dir)!r}, weights are loaded by the server from its own cache")
    if ignored:
        differences.append(f"no such argument here, ignored: {', '.join(ignored)}")
    if differences:
        warnings.warn(f"{name}: {'; '.join(differences)}", DeploymentWarning, stacklevel=frames_to_caller())


def frames_to_caller() -> int:
    """Return the `stacklevel` with which a warning names the first line outside this package."""
    package = str(Path(__file__).parents[1])
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    return level
