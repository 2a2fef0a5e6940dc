# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.launcher`: which models it loads, what does not load, and the secret of admin operations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import ServerStoppedError, prepared, running_server
from flagtriton_tools.tritonserver.admin import Admin
from flagtriton_tools.tritonserver.admin_secret import find_secret
from flagtriton_tools.tritonserver.options import ServeOptions
from tests.support.folders import facts
from tests.support.servers.program import SERVER, options_for

PLAIN = ["plain", "plain_encoder", "plain_pooler", "plain_tokenizer"]
M3 = ["m3", "m3_score", *(f"m3_{step}" for step in ("tokenizer", "encoder", "dense_sparse", "colbert", "scorer"))]
CAUSE = "OSError: no such checkpoint"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep secrets in a folder of this test; return it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "flagtriton"


@pytest.fixture
def options(tmp_path: Path) -> ServeOptions:
    """Return options that serve `plain`, of one ensemble, `m3`, of two, and `tiny`, which is another tool's."""
    options = replace(options_for(tmp_path, SERVER), exit_on_error=False)
    add_models(build(facts(name="m3", model_class="encoder-only-m3"), AddOptions()), options.repository)
    add_models(build(facts(name="plain"), AddOptions()), options.repository)
    return options


def with_flags(options: ServeOptions, *flags: str) -> ServeOptions:
    return replace(options, extra=flags)


def told(options: ServeOptions) -> list[list[str]]:
    """Return the flags that each server was started with."""
    assert options.log_file is not None
    return [json.loads(line) for line in options.log_file.read_text("utf-8").splitlines() if line.startswith("[")]


def loaded(options: ServeOptions, server: int = -1) -> list[str]:
    flags = told(options)[server]
    return [flag.removeprefix("--load-model=") for flag in flags if flag.startswith("--load-model=")]


# Which models are loaded.


def test_every_model_is_loaded_by_its_own_name_steps_and_those_of_others_included(options: ServeOptions) -> None:
    with running_server(options):
        assert loaded(options) == sorted([*PLAIN, *M3, "tiny"])
    assert "--model-control-mode=explicit" in told(options)[0]


def test_a_deployment_is_loaded_with_its_further_ensemble_and_all_their_steps(options: ServeOptions) -> None:
    with running_server(replace(options, load=("m3",))):
        assert loaded(options) == M3


def test_deployments_are_loaded_in_the_order_they_are_asked_for_each_model_once(options: ServeOptions) -> None:
    with running_server(replace(options, load=("plain", "m3", "plain_encoder"))):
        models = loaded(options)
    assert models[0] == "plain"
    assert sorted(models[:4]) == PLAIN
    assert models[4:] == M3


def test_a_step_can_be_loaded_by_itself(options: ServeOptions) -> None:
    with running_server(replace(options, load=("plain_encoder",))) as server:
        assert loaded(options) == ["plain_encoder"]
        assert server.failed == {}


def test_a_later_server_may_load_other_deployments_and_continues_the_log(options: ServeOptions) -> None:
    with prepared(replace(options, load=("m3",))) as launcher:
        with launcher.started():
            pass
        with launcher.started(["plain"], again=True):
            pass
    assert loaded(options, 0) == M3
    assert sorted(loaded(options, 1)) == PLAIN


def test_models_that_are_being_loaded_are_waited_for(options: ServeOptions) -> None:
    lines: list[str] = []
    with running_server(with_flags(options, "--polls=3"), lines.append) as server:
        assert server.failed == {}
    assert [line for line in lines if line.startswith("ready: ")] == [
        f"ready: {name}"
        for name in ("m3", "plain", "tiny")  # one line a deployment, none a step
    ]


def test_models_that_nobody_asked_for_are_not_waited_for(options: ServeOptions) -> None:
    # The program says of one called `late` that it is being loaded, again and again.
    with running_server(replace(options, load=("tiny",))) as server:
        assert server.failed == {}


# What does not load.


def test_a_deployment_whose_step_does_not_load_is_told_with_the_cause(options: ServeOptions) -> None:
    lines: list[str] = []
    with running_server(with_flags(options, "--broken=plain_encoder"), lines.append) as server:
        assert server.failed == {"plain": CAUSE}
    assert [line for line in lines if line.startswith("not")] == [f"not served: plain: {CAUSE}"]


def test_the_cause_is_the_steps_rather_than_that_of_the_ensembles_that_lack_it(options: ServeOptions) -> None:
    flags = ("--broken=m3,m3_score,m3_encoder", "--without-steps=m3,m3_score")
    with running_server(with_flags(options, *flags)) as server:
        assert server.failed == {"m3": CAUSE}


def test_a_deployment_is_told_once_whatever_of_it_does_not_load(options: ServeOptions) -> None:
    with running_server(with_flags(options, "--broken=m3,m3_score,m3_encoder,m3_scorer")) as server:
        assert server.failed == {"m3": CAUSE}


def test_another_tools_model_that_does_not_load_is_told_by_its_name(options: ServeOptions) -> None:
    with running_server(with_flags(options, "--broken=tiny")) as server:
        assert server.failed == {"tiny": CAUSE}


def test_a_server_that_can_load_nothing_is_stopped(options: ServeOptions) -> None:
    flags = f"--broken={','.join([*PLAIN, *M3, 'tiny'])}"
    with (
        pytest.raises(ServerStoppedError, match=r"no model could be loaded; see .*server\.log") as stopped,
        running_server(with_flags(options, flags)),
    ):
        raise AssertionError
    assert stopped.value.exit_code == 1


def test_a_server_that_loads_for_ever_is_stopped(options: ServeOptions) -> None:
    slow = replace(with_flags(options, "--polls=1000000"), ready_timeout_s=0.3)
    with pytest.raises(ToolError, match="not ready within 0 s"), running_server(slow):
        raise AssertionError


# The secret.


def cmdline(process_id: int) -> str:
    return Path(f"/proc/{process_id}/cmdline").read_text("utf-8")


def test_admin_operations_need_a_secret_that_is_made_for_each_start(options: ServeOptions) -> None:
    with running_server(options) as server:
        assert server.secret == find_secret(options.http_url, None) is not None
        Admin(options.http_url, server.secret).unload("tiny")
        with pytest.raises(ToolError, match="wants its secret for this"):
            Admin(options.http_url).unload("plain")
        with pytest.raises(ToolError, match="wants its secret for this"):
            Admin(options.http_url, "another secret of no use").load("plain")
        states = Admin(options.http_url, server.secret).states() or {}
        assert (states["tiny"].is_ready, states["plain"].is_ready) == (False, True)


def test_a_made_secret_is_gone_with_its_server(options: ServeOptions, state: Path) -> None:
    with running_server(options):
        assert len(list(state.iterdir())) == 1
    assert list(state.iterdir()) == []


def test_both_wires_are_given_the_secret_and_the_process_list_is_not(options: ServeOptions) -> None:
    with running_server(options) as server:
        assert server.secret is not None
        restricted = [flag for flag in told(options)[0] if "restricted" in flag]
        assert [flag.endswith(f":flagtriton-secret={server.secret}") for flag in restricted] == [True, True]
        assert server.secret not in cmdline(server.process.pid)
        assert cmdline(server.process.pid).count("*" * len(server.secret)) == 2


def test_a_secret_of_the_users_is_used_and_its_file_left_alone(
    options: ServeOptions, state: Path, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("0123456789abcdef\n", encoding="utf-8")
    with running_server(replace(options, secret_file=file)) as server:
        assert server.secret == "0123456789abcdef"
        Admin(options.http_url, "0123456789abcdef").unload("tiny")
        assert "0123456789abcdef" not in cmdline(server.process.pid)
        assert not state.exists()
    assert file.exists()


def test_a_secret_that_is_none_keeps_the_server_from_being_started(options: ServeOptions, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("short", encoding="utf-8")
    with pytest.raises(ToolError, match="holds no admin secret"), running_server(replace(options, secret_file=file)):
        raise AssertionError
    assert options.log_file is not None
    assert not options.log_file.exists()


def test_an_open_server_has_no_secret(options: ServeOptions, state: Path) -> None:
    with running_server(replace(options, open_admin=True)) as server:
        assert server.secret is None
        Admin(options.http_url).unload("tiny")
        assert not state.exists()
    assert [flag for flag in told(options)[0] if "restricted" in flag] == []


def test_what_is_scarce_is_told_before_the_server_starts(
    options: ServeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, Path | None]] = []

    def check_room(models: int, log_file: Path | None) -> list[str]:
        asked.append((models, log_file))
        return ["warning: scarce"]

    monkeypatch.setattr("flagtriton_tools.serve.launcher.check_room", check_room)
    lines: list[str] = []
    with running_server(replace(options, load=("plain",)), lines.append):
        assert lines[1] == "warning: scarce"
    assert asked == [(4, options.log_file)]
