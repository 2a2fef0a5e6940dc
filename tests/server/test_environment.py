# SPDX-License-Identifier: Apache-2.0
"""`flagtriton serve` where paths, the locale or the user are not what they mostly are; and what it tells of loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flagtriton import FlagModel
from flagtriton_tools.cli.main import main
from flagtriton_tools.tritonserver.options import ServeOptions
from tests.conftest import obey_ctrl_c, serve_options
from tests.support.checkpoints.tiny import TEXTS, make_bert
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

STRANGER = 54321
"""A user id without an entry in passwd."""

AS_STRANGER = (
    *("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),  # the interpreter may be root's alone
    *("env", "-u", "HOME", "-u", "XDG_STATE_HOME"),
)
FLAGS = Path("/dev/shm")


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let this process find the servers that the tests start."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a folder that everybody may read, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="flagtriton-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def add(checkpoint: Path, repository: Path, *more: str) -> None:
    options = ["--name", "tiny", "--precision", "fp32", "--pool-in-encoder", *more]
    assert main(["add", str(checkpoint), "--repository", str(repository), *options]) == 0


@contextmanager
def serving(
    repository: Path, said: Path, *, under: Sequence[str] = (), environment: dict[str, str] | None = None
) -> Iterator[ServeOptions]:
    """Serve until the block ends; yield once everything answers, and see to it that it drains."""
    options = serve_options(repository, said)
    ports = [f"--{name}-port={getattr(options, f'{name}_port')}" for name in ("http", "grpc", "metrics")]
    command = [*under, sys.executable, "-m", "flagtriton_tools", "serve", "--repository", str(repository), *ports]
    with (
        said.open("wb") as output,
        subprocess.Popen(
            command, stderr=output, env=environment, start_new_session=True, preexec_fn=obey_ctrl_c
        ) as process,
    ):
        try:
            wait_for(lambda: process.poll() is not None or "stop with Ctrl-C" in said.read_text("utf-8"), 240)
            assert process.poll() is None, said.read_text("utf-8")
            yield options
        finally:
            process.terminate()
            code = process.wait(60)
    assert code == 0, said.read_text("utf-8")


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except urllib.error.HTTPError:
        return False


def vectors(options: ServeOptions) -> np.ndarray:
    with FlagModel("tiny", url=options.grpc_url, use_fp16=False) as model:
        return model.encode(TEXTS)


def test_odd_paths_in_the_c_locale_are_served(bert: Path, tmp_path: Path) -> None:
    odd = tmp_path / "mö $x 'q\" ;\n(é)" / "my models"
    checkpoint = shutil.copytree(bert, tmp_path / "bértü 模型")
    (tmp_path / "t m p é").mkdir()
    add(checkpoint, odd)
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(tmp_path / "t m p é")}
    with serving(odd, tmp_path / "odd", environment=environment) as options:
        through_a_link = vectors(options)
    add(bert, tmp_path / "plain")
    with serving(tmp_path / "plain", tmp_path / "said") as options:
        assert np.array_equal(vectors(options), through_a_link)


@pytest.mark.skipif(
    subprocess.run([*AS_STRANGER, sys.executable, "-c", ""], capture_output=True, check=False).returncode != 0,
    reason="no right to become another user",
)
def test_a_user_without_a_home_serves_beside_another_users_flag_files(public: Path) -> None:
    add(make_bert(public / "bert"), public / "repository")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    space = Path("/proc/self/ns/pid").stat().st_ino
    theirs = [FLAGS / f"flagtriton_busy_{owner}{space}_{ended.pid}_1_tiny" for owner in ("", f"{os.getuid()}_")]
    for file in theirs:
        file.touch(0o600)
    home = Path(f"/tmp/flagtriton-{STRANGER}")
    try:
        with serving(public / "repository", public / "said", under=AS_STRANGER) as options:
            assert len(vectors(options)) == len(TEXTS)
            assert list(FLAGS.glob(f"flagtriton_busy_{STRANGER}_*"))
            assert (home / f"admin-{options.http_port}.secret").stat().st_mode & 0o777 == 0o600
        assert list(FLAGS.glob(f"flagtriton_busy_{STRANGER}_*")) == []  # its own are removed, others' are not
        assert all(file.exists() for file in theirs)
    finally:
        for file in theirs:
            file.unlink()
        shutil.rmtree(home, ignore_errors=True)


def test_loads_are_told_and_commands_say_what_is_left_to_do(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, said = tmp_path / "my models", tmp_path / "said"
    add(bert, repository)
    assert capsys.readouterr().err.endswith(f"serve it with: flagtriton serve --repository '{repository}'\n")

    def told(line: str) -> None:
        wait_for(lambda: line in said.read_text("utf-8").splitlines(), what=lambda: said.read_text("utf-8"))

    with serving(repository, said) as options:
        at = f"--url {options.http_url}"
        lines = said.read_text("utf-8").splitlines()
        assert [line for line in lines if line.startswith("ready: ")] == [
            "ready: tiny",
            f"ready: tritonserver 2.51.0, {options.http_url}, {options.grpc_url}",
        ]
        health, _, metrics = lines[-2].partition(", ")
        for address in (health.removeprefix("health: "), metrics.removeprefix("metrics: ")):
            wait_for(lambda address=address: answers(address))  # healthz: once each deployment has been asked
        add(bert, repository, "--force", "--max-length", "64")
        assert capsys.readouterr().err.endswith(f"the running server takes it with: flagtriton load tiny {at}\n")
        assert main(["load", "tiny", "--url", options.http_url]) == 0
        told("loaded: tiny, changed, as a client asked")
        assert main(["unload", "tiny", "--url", options.http_url]) == 0
        told("unloaded: tiny, as a client asked")
        config = repository / "tiny_encoder" / "config.pbtxt"
        whole = config.read_text("utf-8")
        config.write_text(whole.replace(str(bert), str(tmp_path / "gone")), "utf-8")
        assert main(["load", "tiny", "--url", options.http_url]) == 2
        wait_for(lambda: "not loaded: tiny_encoder: " in said.read_text("utf-8"), what=lambda: said.read_text("utf-8"))
        config.write_text(whole, "utf-8")
        assert main(["load", "tiny", "--url", options.http_url]) == 0
        told("loaded: tiny, as a client asked")
        capsys.readouterr()
        assert main(["remove", "tiny", "--repository", str(repository)]) == 0
        still = f"tiny is still served at {options.http_url}; end that with: flagtriton unload tiny {at}\n"
        assert capsys.readouterr().err.endswith(still)
        body = json.dumps({"text": "a fox"}).encode()
        with urllib.request.urlopen(f"{options.http_url}/v2/models/tiny/generate", body, timeout=30) as reply:
            assert reply.status == 200
