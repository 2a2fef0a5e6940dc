# SPDX-License-Identifier: Apache-2.0
"""`tritonserver.options`: options that contradict each other, and who can reach what; see also `test_launcher`."""

from __future__ import annotations

import socket
import stat
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver import options as serving
from flagtriton_tools.tritonserver.flags import server_flags
from flagtriton_tools.tritonserver.options import ServeOptions, check_options, free_ports

PORTS = ("http_port", "grpc_port", "metrics_port", "health_port")


@pytest.fixture
def options(tmp_path: Path) -> ServeOptions:
    """Return options under which everything is right."""
    (tmp_path / "repo" / "tiny").mkdir(parents=True)
    (tmp_path / "repo" / "tiny" / "config.pbtxt").touch()
    return ServeOptions(tmp_path / "repo", **dict(zip(PORTS, free_ports(4), strict=True)))


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Path]:
    """Return the three files of TLS by their options."""
    files = {name: tmp_path / f"{name}.pem" for name in ("tls_certificate", "tls_key", "tls_client_ca")}
    for file in files.values():
        file.touch()
    return files


def flag_of(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def test_right_options_pass(options: ServeOptions, tls: dict[str, Path]) -> None:
    check_options(options)
    check_options(replace(options, **tls))
    check_options(replace(options, **{**tls, "tls_client_ca": None}))


# TLS.


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["tls_certificate"], "tls_key"),
        (["tls_key"], "tls_certificate"),
        (["tls_client_ca"], "tls_certificate"),
        (["tls_certificate", "tls_client_ca"], "tls_key"),
    ],
)
def test_a_certificate_and_its_key_come_together(
    options: ServeOptions, tls: dict[str, Path], given: list[str], missing: str
) -> None:
    said = f"{flag_of(given[0])} came without {flag_of(missing)}; TLS needs a certificate and its key"
    with pytest.raises(ToolError) as refused:
        check_options(replace(options, **{name: tls[name] for name in given}))
    assert str(refused.value) == said


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_a_file_of_tls_that_is_not_there_is_named_by_its_flag(
    options: ServeOptions, tls: dict[str, Path], name: str
) -> None:
    tls[name].unlink()
    with pytest.raises(ToolError) as refused:
        check_options(replace(options, **tls))
    assert str(refused.value) == f"{flag_of(name)} is {tls[name]}, which is no file"


def test_encrypted_grpc_has_another_url_and_http_stays_on_this_machine(tls: dict[str, Path]) -> None:
    plain = ServeOptions(Path("repo"), host="0.0.0.0")
    assert (plain.grpc_url, plain.http_host) == ("grpc://127.0.0.1:8001", "0.0.0.0")
    encrypted = replace(plain, **tls)
    assert (encrypted.grpc_url, encrypted.http_host) == ("grpcs://127.0.0.1:8001", "127.0.0.1")


def test_where_http_listens_may_be_said_apart(tls: dict[str, Path]) -> None:
    options = ServeOptions(Path("repo"), plain_http_host="192.168.0.7", **tls)
    assert (options.http_host, options.http_url) == ("192.168.0.7", "http://192.168.0.7:8000")


@pytest.mark.parametrize(
    ("host", "http_url", "grpc_url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", "grpc://127.0.0.1:8001"),
        ("0.0.0.0", "http://127.0.0.1:8000", "grpc://127.0.0.1:8001"),
        ("::", "http://[::1]:8000", "grpc://[::1]:8001"),
        ("fd00::1", "http://[fd00::1]:8000", "grpc://[fd00::1]:8001"),
    ],
)
def test_addresses_are_those_this_machine_reaches(host: str, http_url: str, grpc_url: str) -> None:
    options = ServeOptions(Path("repo"), host=host)
    assert (options.http_url, options.grpc_url) == (http_url, grpc_url)


# Who can reach what.


@pytest.mark.parametrize(
    ("said", "open_to"),
    [
        ({}, {}),
        ({"host": "localhost"}, {}),
        ({"host": "127.3.2.1"}, {}),
        ({"host": "::1"}, {}),
        ({"host": "0.0.0.0"}, {"--host": "0.0.0.0"}),
        ({"host": "::"}, {"--host": "::"}),
        ({"plain_http_host": "0.0.0.0"}, {"--http-host": "0.0.0.0"}),
        ({"host": "0.0.0.0", "plain_http_host": "127.0.0.1"}, {"--host": "0.0.0.0"}),
        ({"host": "0.0.0.0", "tls_certificate": Path("c"), "tls_key": Path("k")}, {"--host": "0.0.0.0"}),
    ],
)
def test_only_hosts_beyond_this_machine_are_open_to_the_network(said: dict[str, Any], open_to: dict[str, str]) -> None:
    assert ServeOptions(Path("repo"), **said).open_to_network == open_to


# Ports.


@pytest.mark.parametrize("name", PORTS)
def test_a_port_that_is_in_use_is_named_by_its_flag(options: ServeOptions, name: str) -> None:
    with socket.create_server(("127.0.0.1", getattr(options, name))), pytest.raises(ToolError) as refused:
        check_options(options)
    assert str(refused.value) == (
        f"{flag_of(name)} {getattr(options, name)} on 127.0.0.1: Address already in use; stop what uses it, or choose "
        "another port"
    )


@pytest.mark.parametrize(("one", "other"), [("http_port", "health_port"), ("grpc_port", "metrics_port")])
def test_no_two_ports_may_be_the_same(options: ServeOptions, one: str, other: str) -> None:
    same = replace(options, **{other: getattr(options, one)})
    with pytest.raises(ToolError, match="two ports are the same: ") as refused:
        check_options(same)
    assert f"{flag_of(one)} {getattr(same, one)}" in str(refused.value)
    assert f"{flag_of(other)} {getattr(same, one)}" in str(refused.value)


def test_without_a_health_port_none_is_looked_at(options: ServeOptions) -> None:
    with socket.create_server(("127.0.0.1", options.health_port or 0)):
        check_options(replace(options, health_port=None))


def test_a_port_out_of_range_is_refused(options: ServeOptions) -> None:
    with pytest.raises(ToolError, match=r"--grpc-port 70000 on 127\.0\.0\.1"):
        check_options(replace(options, grpc_port=70_000))


def test_http_is_looked_for_where_it_listens(options: ServeOptions) -> None:
    with socket.create_server(("127.0.0.2", options.http_port)):
        check_options(options)
        with pytest.raises(ToolError, match=rf"--http-port {options.http_port} on 127\.0\.0\.2"):
            check_options(replace(options, plain_http_host="127.0.0.2"))


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_free_ports_can_be_listened_on() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", port))) for port in free_ports(3)]
        assert len(servers) == 3


# Flags behind --.


@pytest.mark.parametrize("flag", serving._OWN_FLAGS)
@pytest.mark.parametrize("form", ["{}", "{}=1"])
def test_a_flag_of_the_launchers_own_is_refused_with_the_option_that_sets_it(
    options: ServeOptions, flag: str, form: str
) -> None:
    with pytest.raises(ToolError) as refused:
        check_options(replace(options, extra=("--log-verbose=1", form.format(flag))))
    assert str(refused.value) == (
        f"{flag} stands behind --, but `flagtriton serve` sets it: use its own {serving._OWN_FLAGS[flag]}"
    )


def test_other_flags_pass(options: ServeOptions) -> None:
    check_options(replace(options, extra=("--log-verbose=1", "--rate-limit", "off", "--exit-timeout-secs=3")))


def test_every_flag_that_must_be_said_once_is_the_launchers_own(options: ServeOptions, tls: dict[str, Path]) -> None:
    told = {flag.partition("=")[0] for flag in server_flags(replace(options, **tls), ["tiny"], "secret", "shm_")}
    again = {
        "--backend-config",
        "--disable-auto-complete-config",
        "--exit-timeout-secs",
        "--http-restricted-api",
        "--grpc-restricted-protocol",
    }
    assert told - set(serving._OWN_FLAGS) == again  # may be said again


# The log of requests.


def test_a_log_of_requests_is_begun_as_its_owner_s_alone(options: ServeOptions, tmp_path: Path) -> None:
    log = tmp_path / "requests"
    log.write_text("from before\n")
    check_options(replace(options, request_log=log))
    assert log.read_text() == "from before\n"
    check_options(replace(options, request_log=tmp_path / "new"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_log_of_requests_that_cannot_be_written_is_refused(options: ServeOptions, tmp_path: Path) -> None:
    said = r"--request-log .*/nowhere/log: No such file or directory; it must be a file that can be written"
    with pytest.raises(ToolError, match=said):
        check_options(replace(options, request_log=tmp_path / "nowhere" / "log"))
