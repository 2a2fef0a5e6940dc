# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.tritonserver.flags`: what tritonserver is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flagtriton_tools.tritonserver.flags import RESTRICTED, server_flags
from flagtriton_tools.tritonserver.options import ServeOptions

PLAIN = ServeOptions(Path("/repo"), http_port=1, grpc_port=2, metrics_port=3)
ENCRYPTED = replace(PLAIN, tls_certificate=Path("/tls/cert.pem"), tls_key=Path("/tls/key.pem"))


def flags(options: ServeOptions = PLAIN, secret: str | None = None, models: tuple[str, ...] = ("a",)) -> list[str]:
    return server_flags(options, models, secret, "flagtriton_7_1_")


def test_a_server_is_told_what_it_serves_and_where() -> None:
    assert flags(models=("a", "a_encoder")) == [
        "--model-repository=/repo",
        "--model-control-mode=explicit",
        "--load-model=a",
        "--load-model=a_encoder",
        "--exit-on-error=true",
        "--http-address=127.0.0.1",
        "--http-port=1",
        "--grpc-address=127.0.0.1",
        "--grpc-port=2",
        "--metrics-address=127.0.0.1",
        "--metrics-port=3",
        "--backend-config=python,shm-region-prefix-name=flagtriton_7_1_",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=10",
    ]


def test_models_are_loaded_in_the_order_they_are_named() -> None:
    loaded = [flag for flag in flags(models=("z", "a", "m")) if flag.startswith("--load-model")]
    assert loaded == ["--load-model=z", "--load-model=a", "--load-model=m"]


def test_a_relative_repository_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The server runs in another folder.
    monkeypatch.chdir(tmp_path)
    assert flags(replace(PLAIN, repository=Path("repo")))[0] == f"--model-repository={tmp_path.resolve()}/repo"


def test_a_model_that_does_not_load_need_not_end_the_server() -> None:
    assert "--exit-on-error=false" in flags(replace(PLAIN, exit_on_error=False))


def test_the_host_is_where_all_ports_listen() -> None:
    told = flags(replace(PLAIN, host="0.0.0.0"))
    assert [flag for flag in told if "address" in flag] == [
        "--http-address=0.0.0.0",
        "--grpc-address=0.0.0.0",
        "--metrics-address=0.0.0.0",
    ]


def test_http_stays_on_this_machine_where_grpc_is_encrypted() -> None:
    told = flags(replace(ENCRYPTED, host="0.0.0.0"))
    assert "--http-address=127.0.0.1" in told
    assert "--grpc-address=0.0.0.0" in told


def test_http_listens_where_it_is_told_to_though_it_is_not_encrypted() -> None:
    assert "--http-address=0.0.0.0" in flags(replace(ENCRYPTED, plain_http_host="0.0.0.0"))


def test_plain_text_names_no_certificates() -> None:
    assert [flag for flag in flags() if "ssl" in flag or "cert" in flag or "key" in flag] == []


def test_a_certificate_and_its_key_encrypt_grpc() -> None:
    assert flags(ENCRYPTED)[-3:] == [
        "--grpc-use-ssl=true",
        "--grpc-server-cert=/tls/cert.pem",
        "--grpc-server-key=/tls/key.pem",
    ]


def test_clients_are_asked_for_certificates_where_an_authority_is_named() -> None:
    told = flags(replace(ENCRYPTED, tls_client_ca=Path("/tls/ca.pem")))
    assert told[-2:] == ["--grpc-use-ssl-mutual=true", "--grpc-root-cert=/tls/ca.pem"]


def test_relative_certificates_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = flags(replace(PLAIN, tls_certificate=Path("c"), tls_key=Path("k"), tls_client_ca=Path("ca")))
    here = tmp_path.resolve()
    assert f"--grpc-server-cert={here}/c" in told
    assert f"--grpc-server-key={here}/k" in told
    assert f"--grpc-root-cert={here}/ca" in told


def test_what_changes_a_server_or_reads_its_memory_needs_the_secret_over_both_wires() -> None:
    restricted = "model-repository,logging,trace,shared-memory:flagtriton-secret=open-sesame"
    assert flags(secret="open-sesame")[-2:] == [
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
    ]


def test_what_clients_do_needs_no_secret() -> None:
    assert {"inference", "health", "metadata", "model-config", "statistics"}.isdisjoint(RESTRICTED)


def test_without_a_secret_nothing_is_restricted() -> None:
    assert [flag for flag in flags() if "restricted" in flag] == []


def test_further_flags_stand_last_and_as_they_are() -> None:
    extra = ("--log-verbose=1", "--rate-limit", "off")
    assert flags(replace(ENCRYPTED, extra=extra), "open-sesame")[-3:] == list(extra)


def test_only_models_of_others_are_asked_for_what_their_configurations_leave_out() -> None:
    told = server_flags(PLAIN, ["a"], None, "flagtriton_7_1_", auto_complete=True)
    assert set(flags()) - set(told) == {"--disable-auto-complete-config"}
