# SPDX-License-Identifier: Apache-2.0
"""A deployment on a Triton that knows nothing of flagtriton: from a bucket, its Python packed, on SageMaker's port.

The embedded server cannot read buckets itself, so the objects are laid out again as Triton does when it fetches them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from tritonclient.http import InferenceServerClient, InferInput

from flagtriton.protocol.text import text_tensor
from flagtriton_tools.cli.main import main
from flagtriton_tools.repository.environment import environment_members, write_environment
from flagtriton_tools.serve.watched import steps_of
from flagtriton_tools.tritonserver.embedded import find_tritonserver
from flagtriton_tools.tritonserver.options import free_ports
from tests.support.checkpoints.tiny import TEXTS, make_bert
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

NAME = "bucketed"
ENVIRONMENT = "/env.tar.gz"
BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="


@dataclass(frozen=True)
class Platform:
    """A server of somebody else's.

    Attributes:
        http_url: its ordinary address, which SageMaker's would not have.
        sagemaker_url: SageMaker's.
        vectors: what the texts of the tests are to come to.
        environments: in which its steps' processes run.
    """

    http_url: str
    sagemaker_url: str
    vectors: NDArray[np.float32]
    environments: list[str]


def expected(checkpoint: Path) -> NDArray[np.float32]:
    """Return the texts' vectors as transformers alone computes them."""
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0] for text in TEXTS]
    return torch.nn.functional.normalize(torch.stack(rows), dim=1).numpy()


def uploaded(repository: Path) -> dict[str, bytes]:
    """Return a repository as a bucket holds it: objects by key; neither folders nor links."""
    return {str(path.relative_to(repository)): path.read_bytes() for path in repository.rglob("*") if path.is_file()}


def fetched(objects: dict[str, bytes], folder: Path) -> Path:
    """Lay a bucket's objects out as files."""
    for key, content in objects.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    return folder


def python_of_its_own() -> str:
    """Return a search path whose Python does not have this package, nor anything that it needs."""
    search_path = os.pathsep.join([f"{sys.base_prefix}/bin", "/usr/bin", "/bin"])
    lacking = subprocess.run(["python3", "-c", "import flagtriton_server"], env={"PATH": search_path}, check=False)
    assert lacking.returncode == 1
    return search_path


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Any, Path]:
    """Add a deployment as a user would who wants it in a bucket; then its checkpoint and staging folder are gone."""
    folder = tmp_path_factory.mktemp("platforms")
    checkpoint = make_bert(folder / "checkpoint")
    vectors = expected(checkpoint)
    staging = folder / "s3-staging" / "repository"
    options = ["--name", NAME, "--precision", "fp32", "--copy-checkpoint", "--execution-env", f"{folder}{ENVIRONMENT}"]
    assert main(["add", str(checkpoint), "--repository", str(staging), *options]) == 0
    assert not [path for path in staging.rglob("*") if path.is_symlink() or (path.is_dir() and not any(path.iterdir()))]
    objects = uploaded(staging)
    shutil.rmtree(staging)
    shutil.rmtree(checkpoint)
    return objects, vectors, folder


@pytest.fixture(scope="module")
def platform(staged: tuple[dict[str, bytes], Any, Path]) -> Iterator[Platform]:
    """Serve it as SageMaker's container does: by a bare tritonserver that loads the one ensemble by its name."""
    objects, vectors, folder = staged
    write_environment(environment_members(), folder / ENVIRONMENT.removeprefix("/"), compression=0)
    work = folder / "work"
    work.mkdir()
    binary = find_tritonserver(None, work)
    http, grpc, metrics, sagemaker = free_ports(4)
    flags = [
        f"--model-repository={fetched(objects, folder / 'opt' / 'ml' / 'model')}",
        "--model-control-mode=explicit",
        f"--load-model={NAME}",
        "--model-namespacing=true",
        "--allow-sagemaker=true",
        f"--sagemaker-port={sagemaker}",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        f"--backend-config=python,shm-region-prefix-name=flagtriton_platform_{os.getpid()}_",
    ]
    environment = {**os.environ, **binary.environment, "PATH": python_of_its_own()}
    environment["SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"] = NAME
    with (folder / "log").open("w") as written:
        command = [str(binary.binary), *binary.arguments, *flags]
        server = subprocess.Popen(command, env=environment, stdout=written, stderr=written, cwd=work)
    try:
        log = folder / "log"
        # SageMaker's port opens some time after the ordinary one says that all is ready.
        for url in (f"http://127.0.0.1:{http}/v2/health/ready", f"http://127.0.0.1:{sagemaker}/ping"):
            wait_for(lambda url=url: is_ready(server, url, log), 300, lambda: log.read_text()[-3000:])  # type: ignore[misc]
        environments = [stub.environ()["VIRTUAL_ENV"] for stub in psutil.Process(server.pid).children()]
        yield Platform(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{sagemaker}", vectors, environments)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def is_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert server.poll() is None, log.read_text()[-3000:]
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def infer_request() -> tuple[bytes, int | None]:
    """Return the body of a request for the texts' vectors, and where its JSON ends."""
    tensor = InferInput("text", [len(TEXTS), 1], "BYTES")
    tensor.set_data_from_numpy(text_tensor(TEXTS))
    return InferenceServerClient.generate_request_body([tensor])


def post(url: str, body: bytes, content_type: str) -> tuple[bytes, Any]:
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read(), reply.headers


def test_a_bucket_holds_every_file_it_needs_and_no_empty_one(staged: tuple[dict[str, bytes], Any, Path]) -> None:
    objects = staged[0]
    assert all(objects.values())
    assert {key.split("/")[0] for key in objects} == {
        NAME,
        *(f"{NAME}_{s}" for s in ("tokenizer", "encoder", "pooler")),
    }
    weights = [key for key in objects if key.endswith(".safetensors")]
    assert weights == [f"{NAME}_encoder/1/checkpoint/model.safetensors"]
    assert str(staged[2] / "checkpoint").encode() not in b"".join(
        content for key, content in objects.items() if not key.startswith(f"{NAME}/")
    )


def test_all_steps_come_with_the_ensemble(platform: Platform) -> None:
    config, _ = post(f"{platform.http_url}/v2/repository/index", b"{}", "application/json")
    ready = {model["name"] for model in json.loads(config) if model["state"] == "READY"}
    with urllib.request.urlopen(f"{platform.http_url}/v2/models/{NAME}/config", timeout=10) as reply:
        assert ready == {NAME, *steps_of({NAME: json.loads(reply.read())})}


def test_all_steps_run_in_one_unpacked_environment(platform: Platform) -> None:
    assert len(platform.environments) == 3
    (environment,) = set(platform.environments)
    assert environment.startswith("/tmp/python_env_")


def test_texts_come_out_as_transformers_computes_them(platform: Platform) -> None:
    body, _ = post(f"{platform.http_url}/v2/models/{NAME}/generate", json.dumps({"text": TEXTS[0]}).encode(), "")
    assert np.allclose(json.loads(body)["dense_vecs"], platform.vectors[0], atol=1e-5)


def test_sagemakers_ping_says_that_it_is_up(platform: Platform) -> None:
    with urllib.request.urlopen(f"{platform.sagemaker_url}/ping", timeout=10) as reply:
        assert reply.status == 200


def test_an_invocation_in_json_is_answered_in_json(platform: Platform) -> None:
    request = {"inputs": [{"name": "text", "shape": [len(TEXTS), 1], "datatype": "BYTES", "data": TEXTS}]}
    body, _ = post(f"{platform.sagemaker_url}/invocations", json.dumps(request).encode(), "application/json")
    outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
    dense = outputs["dense_vecs"]
    assert np.allclose(np.reshape(dense["data"], dense["shape"]), platform.vectors, atol=1e-5)


def test_an_invocation_in_binary_is_answered_in_binary(platform: Platform) -> None:
    body, header_length = infer_request()
    answer, headers = post(f"{platform.sagemaker_url}/invocations", body, f"{BINARY}{header_length}")
    length = int(headers["Content-Type"].removeprefix(BINARY))
    result = InferenceServerClient.parse_response_body(answer, header_length=length)
    assert np.allclose(result.as_numpy("dense_vecs"), platform.vectors, atol=1e-5)


def test_a_bad_invocation_says_what_is_wrong(platform: Platform) -> None:
    request = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}]}
    request["parameters"] = {"max_length": 10**6}  # type: ignore[assignment]
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{platform.sagemaker_url}/invocations", json.dumps(request).encode(), "application/json")
    assert (
        "option 'max_length' is 1000000; expected a whole number from 2 to 512"
        in json.loads(refused.value.read())["error"]
    )
