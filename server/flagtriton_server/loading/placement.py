# SPDX-License-Identifier: Apache-2.0
"""The devices of an instance's weights, and the check that the weights fit before any of them is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flagtriton_server.backend.process_tuning import threads_per_instance

__all__ = ["check_fit", "instance_devices", "limit_threads", "loading_arguments", "weights_bytes"]

_CGROUP = Path("/sys/fs/cgroup")
_GIB = 2**30


def instance_devices(args: Mapping[str, str], shard: str | None = None) -> list[torch.device]:
    """Return the devices on which this instance computes, with its inputs on the first.

    Args:
        args: the argument of Triton's `initialize`, with the kind and the device of the instance.
        shard: numbers of the GPUs over which one instance is spread, e.g. `0,1`; None is one device.
    """
    if shard is not None:
        return [torch.device("cuda", int(number)) for number in shard.split(",")]
    if args["model_instance_kind"] == "GPU":
        return [torch.device("cuda", int(args["model_instance_device_id"]))]
    return [torch.device("cpu")]


def loading_arguments(devices: Sequence[torch.device]) -> dict[str, Any]:
    """Return the arguments with which transformers reads weights straight onto the devices, one tensor at a time.

    A processor needs no arguments. Weights in the requested dtype stay mapped from their file, and instances share it.
    """
    if devices[0].type == "cpu":
        return {}
    if len(devices) == 1:
        return {"device_map": {"": devices[0]}}
    return {"device_map": "balanced", "max_memory": {device.index: _free_bytes(device) for device in devices}}


def weights_bytes(module: torch.nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes that a module's parameters and buffers take, its floating-point ones in a dtype.

    Args:
        module: the module; on the `meta` device it takes no memory itself.
        dtype: dtype of the computation with the weights.
    """
    return sum(
        tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.element_size())
        for tensor in _distinct([*module.parameters(), *module.buffers()])
    )


def check_fit(checkpoint: str, needed: int, precision: str, devices: Sequence[torch.device]) -> None:
    """Raise if the weights of a checkpoint are larger than the free memory.

    Args:
        checkpoint: name for the message.
        needed: bytes of the weights.
        precision: precision of the deployment, for the message.
        devices: devices over which the weights are spread.

    Raises:
        ValueError: the weights do not fit; the message has the needed and the free memory, and advice.
    """
    free = sum(_free_bytes(device) for device in devices)
    if needed <= free:
        return
    advice = ["fewer --instances"]
    if precision == "fp32" or (precision == "fp16" and devices[0].type == "cpu"):
        advice.insert(0, "--precision bf16")
    if devices[0].type == "cuda":
        advice.append("--shard and more GPUs in --device")
    raise ValueError(
        f"{checkpoint} does not fit: its weights are {needed / _GIB:.1f} GiB in {precision}, and "
        f"on {', '.join(map(str, devices))} {free / _GIB:.1f} GiB are free; add it again with {', or '.join(advice)}"
    )


def _distinct(tensors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    return iter({id(tensor): tensor for tensor in tensors}.values())


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    with open("/proc/meminfo", encoding="utf-8") as meminfo:  # noqa: PTH123 - a device file, read once
        (available,) = (int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:"))
    return min(available, _left_to_container(available))


def _left_to_container(unlimited: int) -> int:
    """Return the bytes that a container's limit leaves. Cached files count as free, because the kernel drops them."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        fields = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        cached = int(fields["inactive_file"]) + int(fields["active_file"])
    except (OSError, ValueError, KeyError):
        return unlimited  # no control groups of version 2
    return unlimited if limit == "max" else max(0, int(limit) - used + cached)


def limit_threads(instances: int) -> int:
    """Limit torch to this instance's share of the cores; return the number of threads.

    Args:
        instances: number of instances of the step that share the processor.
    """
    threads = threads_per_instance(instances)
    torch.set_num_threads(threads)
    return threads
