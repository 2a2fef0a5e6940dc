# SPDX-License-Identifier: Apache-2.0
"""Which attack bears which number: a function of seed, number and what is served, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.robustness.fuzz.attack import INFER, STREAM_INFER, Attack, Wire
from tests.robustness.fuzz.bad_grpc import GRPC_KINDS
from tests.robustness.fuzz.bad_http import HTTP_KINDS, generate_message
from tests.robustness.fuzz.bad_options import OPTION_KINDS
from tests.robustness.fuzz.bad_steps import STEP_KINDS, fitting_infer
from tests.robustness.fuzz.bad_tensors import TENSOR_KINDS, UNCERTAIN
from tests.robustness.fuzz.deadly import DEADLY_KINDS
from tests.robustness.fuzz.infer import Infer, http_message, to_grpc, to_http
from tests.robustness.fuzz.known import good_infer
from tests.robustness.fuzz.models import Model, World

__all__ = ["HARMS_ITS_BATCH", "Catalogue"]

_RARE = {"oversized body": 0.4, "oversized message": 0.4, "dripping sender": 0.4, "huge option": 0.5}
"""Kinds that take long or move much, and how often they come, others being 1."""


@dataclass(frozen=True)
class Catalogue:
    """All attacks of one seed on one world; `deadly` ones among them where they are asked for."""

    world: World
    seed: int
    deadly: bool = False

    def attack(self, number: int) -> Attack:
        """Return the attack with this number."""
        rng = Random(f"{self.seed}:{number}")
        group, kind = rng.choices(_ALL, weights=_WEIGHTS)[0]
        if self.deadly and rng.random() < _DEADLY_SHARE:
            group, kind = "deadly", rng.choice(list(DEADLY_KINDS))
        return replace(_MAKERS[group](self.world, kind, rng), kind=kind)


def _of_tensors(world: World, kind: str, rng: Random) -> Attack:
    model = rng.choice(world.public)
    bad = TENSOR_KINDS[kind](good_infer(model, rng), model, rng)
    if any(not -(2**63) <= dim < 2**63 for tensor in bad.tensors for dim in tensor.shape):
        return _over_http(bad)
    return replace(_over_any_wire(bad, rng), must_fail=kind not in UNCERTAIN)


def _of_options(world: World, kind: str, rng: Random) -> Attack:
    model = rng.choice(world.public)
    good, options = good_infer(model, rng), OPTION_KINDS[kind](rng)
    if rng.random() < 0.25:
        fields = {**{tensor.name: "fox" for tensor in good.tensors}, **options}
        overwritten = any(tensor.name in options for tensor in good.tensors)
        return Attack("", model.name, Wire.HTTP, generate_message(model.name, fields, rng), must_fail=not overwritten)
    return _over_any_wire(replace(good, options=options), rng)


def _of_http(world: World, kind: str, rng: Random) -> Attack:
    model = rng.choice(world.public)
    return HTTP_KINDS[kind](good_infer(model, rng), model, rng)


def _of_grpc(world: World, kind: str, rng: Random) -> Attack:
    model = rng.choice(world.public)
    return GRPC_KINDS[kind](good_infer(model, rng), model, rng)


def _of_deadly(world: World, kind: str, rng: Random) -> Attack:
    model = rng.choice(world.public)
    return DEADLY_KINDS[kind](good_infer(model, rng), model, rng)


def _of_steps(world: World, kind: str, rng: Random) -> Attack:
    step = rng.choice(world.steps)
    return replace(_over_any_wire(STEP_KINDS[kind](fitting_infer(step, rng), rng), rng), must_fail=False)


def _of_step_tensors(world: World, kind: str, rng: Random) -> Attack:
    """Return what is wrong for any model, sent to a step of one."""
    step = rng.choice([step for step in world.steps if step.name.endswith("_tokenizer")])
    bad = TENSOR_KINDS[kind.removeprefix("step: ")](_texts_for(step, rng), step, rng)
    return replace(_over_any_wire(bad, rng), must_fail=False)


def _texts_for(step: Model, rng: Random) -> Infer:
    if not step.inputs[0].optional:
        return good_infer(step, rng)
    return good_infer(replace(step, inputs=step.inputs[:1], outputs=step.outputs[:2]), rng)


def _over_any_wire(request: Infer, rng: Random) -> Attack:
    wire = rng.choice([Wire.HTTP, Wire.HTTP, Wire.GRPC, Wire.GRPC, Wire.STREAM])
    if wire is Wire.HTTP:
        return _over_http(request)
    method = STREAM_INFER if wire is Wire.STREAM else INFER
    return Attack("", request.model, wire, to_grpc(request), method=method)


def _over_http(request: Infer) -> Attack:
    path, headers, body = to_http(request)
    return Attack("", request.model, Wire.HTTP, http_message("POST", _in_a_path(path), headers, body))


def _in_a_path(path: str) -> str:
    """Return a path that fits a request line: latin-1 and no blanks."""
    return path.encode("utf-8", errors="replace").decode("latin-1").replace(" ", "%20")


HARMS_ITS_BATCH = frozenset(
    {"lying BYTES prefix", "cut BYTES", "more rows than said", "fewer rows than said", "lying binary size", "contents"}
)
"""For these Triton's Python backend refuses a whole batch; a step that raises does so, too."""

_DEADLY_SHARE = 0.01
_STEP_TENSORS = [f"step: {kind}" for kind in TENSOR_KINDS if not kind.startswith("unknown m")]
_MAKERS: dict[str, Callable[[World, str, Random], Attack]] = {
    "tensors": _of_tensors,
    "options": _of_options,
    "http": _of_http,
    "grpc": _of_grpc,
    "steps": _of_steps,
    "step tensors": _of_step_tensors,
    "deadly": _of_deadly,
}
_GROUPS: dict[str, tuple[Any, float]] = {
    "tensors": (TENSOR_KINDS, 1.0),
    "options": (OPTION_KINDS, 2.0),
    "http": (HTTP_KINDS, 1.0),
    "grpc": (GRPC_KINDS, 1.0),
    "steps": (STEP_KINDS, 2.0),
    "step tensors": (_STEP_TENSORS, 0.2),
}
_ALL = [(group, kind) for group, (kinds, _) in _GROUPS.items() for kind in kinds]
_WEIGHTS = [weight * _RARE.get(kind, 1.0) for kinds, weight in _GROUPS.values() for kind in kinds]
