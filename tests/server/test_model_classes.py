# SPDX-License-Identifier: Apache-2.0
"""Every row of the table of model classes is served, by its chain of steps and with its architecture's attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flagtriton import FlagAutoModel, FlagAutoReranker
from flagtriton.protocol.architectures import attention_path
from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.model_classes import MODEL_CLASSES, ModelClass
from flagtriton_tools.repository.store import entries
from tests.conftest import Served

pytestmark = pytest.mark.server

SUFFIXES = {"layerwise_encoder": "encoder", "reranker_scorer": "scorer"}
"""What folders of steps end with, where it is not the step's own name."""


@pytest.fixture(scope="module")
def deployments(served: Served) -> dict[str, Deployment]:
    return {entry.name: entry.deployment for entry in entries(served.server.options.repository)}


@pytest.mark.parametrize("row", MODEL_CLASSES.values(), ids=lambda row: f"{row.task} {row.name.value}")
def test_every_class_is_served_by_its_chain(
    row: ModelClass, deployments: dict[str, Deployment], served: Served
) -> None:
    name = next(name for name, found in deployments.items() if (found.task, found.model_class) == (row.task, row.name))
    folders = {path.name for path in served.server.options.repository.iterdir()}
    chain = {f"{name}_{SUFFIXES.get(step, step)}" for step in row.steps}
    assert chain <= folders or row.name == "decoder-only-pseudo_moe"  # which pools in its encoder here
    if row.task == "embed":
        with FlagAutoModel.from_finetuned(name, url=served.grpc_url) as embedder:
            found = embedder.encode(["a fox", "a dog"])
        vectors = found["dense_vecs"] if isinstance(found, dict) else found
        assert vectors.shape[0] == 2
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
        assert not np.array_equal(*vectors)
    else:
        with FlagAutoReranker.from_finetuned(name, url=served.grpc_url) as reranker:
            scores = reranker.compute_score([("a fox", "a dog"), ("a fox", "the sea")])
        assert len(set(scores)) == 2
        assert np.isfinite(scores).all()


def test_attention_is_said_as_the_table_has_it(deployments: dict[str, Deployment]) -> None:
    said, expected = {}, {}
    for name, found in deployments.items():
        config = json.loads((Path(found.checkpoint) / "config.json").read_text(encoding="utf-8"))
        said[name] = found.attention
        expected[name] = (
            "packed" if found.row.layerwise else attention_path(config["model_type"], found.trust_remote_code)
        )
    assert said == expected
    assert set(said.values()) == {"packed", "padded"}
