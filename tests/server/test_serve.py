# SPDX-License-Identifier: Apache-2.0
"""`flagtriton serve` as a user runs it: started, stopped, interrupted, failing; nothing is ever left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from flagtriton import BGEM3FlagModel, FlagModel
from flagtriton.protocol.text import text_tensor
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.options import ServeOptions, free_ports
from tests.conftest import obey_ctrl_c, serve_options
from tests.support.checkpoints.tiny import TEXTS
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "repository"
    # Pooling in the encoder: one process fewer to wait for at each of the many starts here.
    options = AddOptions(name="tiny", precision="fp32", pool_in_encoder=True)
    add_models(build(inspect_checkpoint(str(bert)), options), folder)
    return folder


@contextmanager
def serve_command(
    repository: Path, log_file: Path, *more: str, under: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], ServeOptions]]:
    options = serve_options(repository, log_file)
    ports = [f"--http-port={options.http_port}", f"--grpc-port={options.grpc_port}"]
    ports.append(f"--metrics-port={options.metrics_port}")
    command = [sys.executable, "-m", "flagtriton_tools", "serve", "--repository", str(repository)]
    with subprocess.Popen(
        [*under, *command, *ports, "--log-file", str(log_file), *more],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=obey_ctrl_c,
    ) as process:
        try:
            yield process, options
        finally:
            process.kill()


def processes_of(repository: Path) -> list[str]:
    """Return the command lines of all processes that name the repository: the server and its stubs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:
                continue  # it ended meanwhile
            if str(repository) in command:
                found.append(command)
    return found


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError(f"{word!r} never came: {''.join(lines)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_in_order(number: int, repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "log") as (process, options):
        told = read_until(process, "stop with Ctrl-C")
        assert "embedded in nvidia-pytriton" in told
        assert f"ready: tritonserver 2.51.0, {options.http_url}, {options.grpc_url}" in told
        assert FlagModel("tiny", url=options.grpc_url, use_fp16=False).encode(TEXTS).shape == (len(TEXTS), 48)
        process.send_signal(number)
        assert process.wait(60) == 0
    wait_for(lambda: not processes_of(repository))


def test_a_signal_during_the_start_leaves_nothing_behind(repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "log") as (process, _):
        wait_for(lambda: any("stub" in command for command in processes_of(repository)))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    wait_for(lambda: not processes_of(repository))


def test_a_killed_command_takes_its_server_along(repository: Path, tmp_path: Path) -> None:
    with serve_command(repository, tmp_path / "log") as (process, _):
        read_until(process, "stop with Ctrl-C")
        process.kill()
        process.wait(10)
    wait_for(lambda: not processes_of(repository))


def test_only_what_load_names_is_served(repository: Path, bert: Path, tmp_path: Path) -> None:
    both = tmp_path / "repository"
    for name in ("one", "other"):
        add_models(build(inspect_checkpoint(str(bert)), AddOptions(name=name, precision="fp32")), both)
    with running_server(serve_options(both, tmp_path / "log", load=("other",))) as server:
        model = FlagModel("other", url=server.options.grpc_url, use_fp16=False)
        ready = model.served.transport.ready_models()
    assert sorted(ready) == ["other", "other_encoder", "other_pooler", "other_tokenizer"]


def test_a_checkpoint_that_does_not_load_is_explained(repository: Path, bert: Path, tmp_path: Path) -> None:
    broken = tmp_path / "repository"
    models = build(inspect_checkpoint(str(bert)), AddOptions(name="tiny", precision="fp32"))
    for model in models:
        if model.step == "encoder":
            model.config.parameters["max_length"].string_value = "513"
    add_models(models, broken)
    with serve_command(broken, tmp_path / "log") as (process, _):
        _, told = process.communicate(timeout=120)
        assert process.returncode == 1
    assert f"see {tmp_path / 'log'}" in told
    assert "has positions for 512 tokens, but the deployment's max_length is 513" in told


@pytest.mark.parametrize(("url", "end"), [("grpc_url", "kill"), ("grpc_url", "stop"), ("http_url", "kill")])
def test_a_list_outlives_a_restart_of_the_server(url: str, end: str, repository: Path, tmp_path: Path) -> None:
    http_port, grpc_port, metrics_port = free_ports(3)
    options = ServeOptions(
        repository, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port, log_file=tmp_path / "log"
    )
    vectors: list[np.ndarray] = []
    with running_server(options) as server:
        model = FlagModel("tiny", url=getattr(options, url), use_fp16=False, retries=30, request_timeout_s=20)
        expected = model.encode(TEXTS)
        caller = threading.Thread(target=lambda: vectors.append(np.asarray(model.encode(TEXTS * 2000, batch_size=32))))
        caller.start()
        getattr(server, end)()
        server.wait()
    with running_server(options):
        caller.join(120)
        model.close()
    assert len(vectors) == 1
    assert np.abs(vectors[0] - np.tile(expected, (2000, 1))).max() <= 1e-6


COLBERT = [triton.InferRequestedOutput("colbert_vecs")]
SMALL_SHARED_MEMORY = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=48m tmpfs /dev/shm && exec "$@"', "sh")


@pytest.mark.skipif(
    subprocess.run([*SMALL_SHARED_MEMORY, "true"], capture_output=True, check=False).returncode != 0,
    reason="no right to mount a small /dev/shm",
)
def test_too_little_shared_memory_is_explained_and_survived(tmp_path: Path, m3: Path) -> None:
    repository = tmp_path / "repository"
    add_models(build(inspect_checkpoint(str(m3)), AddOptions(name="m3", precision="fp32")), repository)
    with serve_command(repository, tmp_path / "log", "--load", "m3", under=SMALL_SHARED_MEMORY) as (process, options):
        read_until(process, "stop with Ctrl-C")
        with triton.InferenceServerClient(options.grpc_url.split("//")[1]) as client:
            assert client.is_model_ready("m3_score")  # which --load m3 brings along
            # 256 texts of 512 tokens: 25 MB of hidden states, and as much again of ColBERT vectors.
            with pytest.raises(InferenceServerException, match="use '--shm-size' flag to control the shared memory"):
                client.infer("m3", [text_input(["fox " * 600] * 256)], outputs=COLBERT)
            assert client.infer("m3", [text_input(["fox"])], outputs=COLBERT).as_numpy("colbert_vecs").any()
        # The SDK cuts the same texts into requests that fit.
        with BGEM3FlagModel("m3", url=options.grpc_url, return_colbert_vecs=True) as model:
            assert len(model.encode(["fox " * 600] * 64)["colbert_vecs"][63]) == 511


def text_input(texts: list[str]) -> triton.InferInput:
    tensor = triton.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(text_tensor(texts))
    return tensor
