# SPDX-License-Identifier: Apache-2.0
"""What a caller asks for beside what is served: refused where it changes the answer, else one warning."""

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
    """Return `devices` the way FlagEmbedding names them: `0` is `cuda:0`.

    Raises:
        ValueError: neither a string, an integer, nor a list of one of them.
    """
    entries = devices if isinstance(devices, list) else [devices]
    if entries and all(isinstance(entry, str) for entry in entries):
        return ["cuda:0" if entry == "cuda" else str(entry) for entry in entries]
    if entries and all(isinstance(entry, int) for entry in entries):
        return [f"cuda:{entry}" for entry in entries]
    raise ValueError("devices should be a string or an integer or a list of strings or a list of integers.")


def served_devices(deployment: Deployment) -> list[str]:
    """Return a deployment's devices the same way: `gpu:0,1` is `cuda:0`, `cuda:1`."""
    kind, _, numbers = deployment.device.partition(":")
    return [f"cuda:{number}" for number in numbers.split(",")] if kind == "gpu" and numbers else [kind]


def served_class(served: ServedModel, task: str, model_classes: type[C]) -> C:
    """Return which of a task's classes a deployment is of; close it if it is of none.

    Args:
        served: the deployment.
        task: `embed` or `rerank`.
        model_classes: the task's.

    Raises:
        DeploymentMismatchError: it does another task, or is of a class that this version does not know.
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
    """Raise where the deployment would answer another question than the caller's.

    Args:
        name: the deployment's name.
        deployment: what is served.
        model_classes: the classes that the caller's Python class can talk to.
        pooling_method: what the caller asked for; None takes what is served.
        max_lengths: the caller's length limits by argument name, tokens. FlagEmbedding's default of 512 stands
            for the smaller of itself and the deployment's.
        task: `embed` or `rerank`.

    Raises:
        DeploymentMismatchError: says what came, what is served, and how to deploy it as asked.
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
    """Return how to deploy a checkpoint as another class, for those that its architecture may be of; else nothing."""
    kind = deployment.model_class.partition("-only-")[0]  # encoder or decoder
    possible = [model_class for model_class in model_classes if model_class.startswith(f"{kind}-only-")]
    if not possible:
        return ""
    other_task = "" if task == deployment.task else f" --task {task}"
    command = f"{_add_again(name, deployment)}{other_task} --model-class {possible[0]}"
    return f". If the checkpoint is of the class {possible[0]}, deploy it so, with its other options: {command}"


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
    """Warn once, naming both sides of every argument that the deployment settles otherwise.

    What a class has as its default, `use_fp16=True` mostly, permits half precision and never differs.
    """
    served = served_devices(deployment)
    differences = []
    precision = deployment.precision
    shown = "auto (the server's log says which precision that is there)" if precision == "auto" else precision
    if use_bf16 and not bf16_by_default and precision != "bf16":
        differences.append(f"use_bf16=True, served in {shown}")
    if not use_bf16 and not use_fp16 and precision != "fp32":
        differences.append(f"use_fp16=False, served in {shown}")
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
    """Return the `stacklevel` that makes a warning point at the first line outside this package."""
    package = str(Path(__file__).parents[1])
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    return level
