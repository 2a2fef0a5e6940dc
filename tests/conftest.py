# SPDX-License-Identifier: Apache-2.0
"""One real server for the whole run, with eighteen deployments: encoders, decoders, BGE-M3 and rerankers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.demo import minilm_checkpoint
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.options import ServeOptions, free_ports
from flagtriton_tools.tritonserver.process import RunningServer
from tests.support.checkpoints.domain_model import make_domain_model
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.checkpoints.scoring_model import make_scoring_model
from tests.support.checkpoints.tiny import (
    cuts_left,
    make_bert,
    make_decoder,
    make_m3,
    make_modernbert,
    make_reranker,
    make_xlm_roberta,
)

ICL_TOKENS = ("<instruct>", "<query>", "<response>")
DOMAINS = {
    "task": "embed",
    "model_class": "decoder-only-pseudo_moe",
    "trust_remote_code": True,
    "pool_in_encoder": True,
}
OWN_CODE = {"task": "rerank", "model_class": "encoder-only-base", "trust_remote_code": True}
LLM_RERANKER = {"task": "rerank", "model_class": "decoder-only-base"}

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("FLAGTRITON_URL", None)


@dataclass(frozen=True)
class Served:
    """A running server and where its deployments came from."""

    server: RunningServer
    checkpoints: dict[str, Path]

    @property
    def grpc_url(self) -> str:
        return self.server.options.grpc_url

    @property
    def http_url(self) -> str:
        return self.server.options.http_url


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("checkpoints") / "bert")


@pytest.fixture(scope="session")
def xlm_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_xlm_roberta(tmp_path_factory.mktemp("checkpoints") / "xlm-roberta")


@pytest.fixture(scope="session")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_m3(tmp_path_factory.mktemp("checkpoints") / "m3", positions=8192)


@pytest.fixture(scope="session")
def minilm() -> Path:
    return minilm_checkpoint()


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, bert: Path, xlm_roberta: Path, m3: Path, minilm: Path
) -> Iterator[Served]:
    """Serve them, the tiny ones in fp32; the last of M3's has another width and sends ColBERT vectors in fp16."""
    folder = tmp_path_factory.mktemp("served")
    narrow = make_m3(folder / "narrow", colbert_dim=16)
    deployments = {
        "bert-cls": (bert, {"pooling_method": "cls"}),
        "modernbert-mean": (make_modernbert(folder / "modernbert"), {"pooling_method": "mean"}),
        "xlmr-mean": (xlm_roberta, {"pooling_method": "mean"}),
        "xlmr-mean-in-encoder": (xlm_roberta, {"pooling_method": "mean", "pool_in_encoder": True}),
        "left-last": (cuts_left(bert, folder / "left"), {"pooling_method": "last_token"}),
        "all-MiniLM-L6-v2": (minilm, {}),
        "minilm-auto": (minilm, {"precision": "auto"}),
        "mistral": (make_decoder(folder / "mistral", "mistral"), {}),
        "icl": (make_decoder(folder / "icl", "llama", added=ICL_TOKENS), {"model_class": "decoder-only-icl"}),
        "domains": (make_domain_model(folder / "domains"), DOMAINS),
        "reranker-bert": (make_reranker(folder / "reranker-bert", make_bert), {}),
        "reranker-xlmr": (make_reranker(folder / "reranker-xlmr", make_xlm_roberta), {}),
        "reranker-own-code": (make_scoring_model(folder / "reranker-own-code"), OWN_CODE),
        "reranker-gemma": (make_decoder(folder / "reranker-gemma", "gemma", positions=2048, head=True), LLM_RERANKER),
        "reranker-layerwise": (make_layerwise(folder / "reranker-layerwise"), {}),
        "reranker-lightweight": (make_lightweight(folder / "reranker-lightweight"), {}),
        "m3": (m3, {}),
        "m3-narrow": (narrow, {"pooling_method": "mean", "colbert_dim": 16, "colbert_dtype": "fp16"}),
    }
    for name, (checkpoint, chosen) in deployments.items():
        options = AddOptions(name=name, **{"precision": "fp32", **chosen})
        add_models(build(inspect_checkpoint(str(checkpoint)), options), folder / "repository")
    with running_server(serve_options(folder / "repository", folder / "tritonserver.log")) as server:
        yield Served(server, {name: checkpoint for name, (checkpoint, _) in deployments.items()})


def obey_ctrl_c() -> None:
    """Undo, in a child process, what a shell does to jobs in the background: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def serve_options(repository: Path, log_file: Path, **more: Any) -> ServeOptions:
    """Return options with ports of their own."""
    http_port, grpc_port, metrics_port = free_ports(3)
    return ServeOptions(
        repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_file=log_file,
        ready_timeout_s=500,
        **more,
    )
