# SPDX-License-Identifier: Apache-2.0
"""What a server serves, read from the server itself; none of Triton's administration is asked."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

__all__ = ["Model", "Port", "World", "served_models"]


@dataclass(frozen=True)
class Port:
    """One input or output of a model; `dims` without the batch dimension, -1 where the length varies."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Model:
    """One model, a public ensemble or a private step.

    Attributes:
        model_class: FlagEmbedding's, of a public one; empty for a step and for BGE-M3's scores.
        steps: of an ensemble.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch_size: int
    model_class: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """All that is served, by name and in the order of names."""

    public: tuple[Model, ...]
    steps: tuple[Model, ...]


def served_models(http: str) -> World:
    """Return the models of the server at this host and port."""
    statistics = _get(http, "/v2/models/stats")["model_stats"]
    names = sorted({model["name"] for model in statistics})
    models = [_model(_get(http, f"/v2/models/{name}/config")) for name in names]
    return World(
        tuple(model for model in models if model.steps),
        tuple(model for model in models if not model.steps),
    )


def _model(config: dict[str, Any]) -> Model:
    chain = config.get("ensemble_scheduling", {}).get("step", [])
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    return Model(
        config["name"],
        tuple(map(_port, config["input"])),
        tuple(map(_port, config["output"])),
        config["max_batch_size"],
        parameters.get("model_class", "") if chain else "",
        tuple(dict.fromkeys(step["model_name"] for step in chain)),
    )


def _port(tensor: dict[str, Any]) -> Port:
    datatype = tensor["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
    dims = tuple(int(dim) for dim in tensor["dims"])
    return Port(tensor["name"], datatype, dims, bool(tensor.get("optional")))


def _get(http: str, path: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no way to loopback
    with opener.open(f"http://{http}{path}", timeout=60) as reply:
        return json.load(reply)
