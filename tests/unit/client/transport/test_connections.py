# SPDX-License-Identifier: Apache-2.0
"""HTTP connections: how many there are, what becomes of them in a forked process, and gateways that answer early."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flagtriton import errors
from flagtriton.protocol.text import text_tensor
from flagtriton.transport.base import InferRequest
from flagtriton.transport.connect import connect
from tests.support.servers.http_server import Answer, Asked, answering
from tests.support.servers.network import refusing_early, speaking

CONFIG = json.dumps({"name": "m", "max_batch_size": 4}).encode()
PAGE = b"<html><head><title>413 Request Entity Too Large</title></head><body><h1>Too large</h1>nginx</body></html>"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def kernel_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def ask(url: str, body: bytes = b"") -> errors.FlagTritonError:
    transport = connect(url, timeout_s=10)
    with pytest.raises(errors.FlagTritonError) as caught:
        transport.infer(InferRequest("m", {"text": text_tensor([body.decode()])}, ["dense_vecs"], {}))
    transport.close()
    return caught.value


def test_short_lived_threads_leave_neither_files_nor_threads_behind() -> None:
    with answering(lambda _: Answer(200, CONFIG)) as url:
        transport = connect(url)
        transport.model_config("m")
        before = open_files(), kernel_threads()
        for _ in range(200):
            thread = threading.Thread(target=transport.model_config, args=("m",))
            thread.start()
            thread.join()
        assert open_files() <= before[0] + 4
        assert kernel_threads() <= before[1] + 4
        transport.close()


def test_many_threads_at_once_get_their_own_answers() -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(200, json.dumps({"name": "m", "max_batch_size": int(asked.path.split("/")[3][1:])}).encode())

    with answering(answer) as url, ThreadPoolExecutor(16) as pool:
        transport = connect(url)
        sizes = list(pool.map(lambda i: transport.model_config(f"m{i}").max_batch_size, range(1, 101)))
        transport.close()
    assert sizes == list(range(1, 101))


@pytest.mark.parametrize("size", [10, 8_000_000])
def test_a_gateway_that_refuses_early_is_told_with_its_status_and_first_words(size: int) -> None:
    with speaking(refusing_early("413 Request Entity Too Large", PAGE)) as port:
        error = ask(f"http://127.0.0.1:{port}", b"x" * size)
    assert type(error) is errors.RequestTooLargeError
    assert "HTTP 413 Request Entity Too Large, '413 Request Entity Too Large Too large nginx'" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.AccessDeniedError),
        (403, errors.AccessDeniedError),
        (429, errors.ServerUnavailableError),
        (502, errors.ServerUnavailableError),
        (503, errors.ServerUnavailableError),
        (504, errors.RequestTimeoutError),
        (500, errors.ServerError),
        (200, errors.ServerError),
        (404, errors.WrongServerError),
        (302, errors.WrongServerError),
    ],
)
def test_a_page_becomes_an_error_with_its_first_words(status: int, kind: type[Exception]) -> None:
    page = Answer(status, b"<style>p {}</style><p>Please &amp; thank you</p>", {"Location": "https://elsewhere/v2"})
    with answering(lambda _: page) as url:
        error = ask(url)
    assert type(error) is kind
    assert "Please & thank you" in str(error)
    assert f"HTTP {status}" in str(error)


def test_a_redirection_says_where_to() -> None:
    with answering(lambda _: Answer(301, b"", {"Location": "https://elsewhere/v2"})) as url:
        assert "https://elsewhere/v2" in str(ask(url))


def test_a_compressed_error_is_read() -> None:
    body = gzip.compress(json.dumps({"error": "text 0 is too long"}).encode())
    with answering(lambda _: Answer(400, body, {"Content-Encoding": "gzip"})) as url:
        error = ask(url)
    assert (type(error), error.said) == (errors.InvalidRequestError, "text 0 is too long")


def test_a_chunked_answer_is_read() -> None:
    def talk(connection: object) -> None:
        connection.recv(4_096)  # type: ignore[attr-defined]
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (CONFIG[:7], CONFIG[7:]))
        connection.sendall(head + pieces + b"0\r\n\r\n")  # type: ignore[attr-defined]

    with speaking(talk) as port:
        transport = connect(f"http://127.0.0.1:{port}")
        assert transport.model_config("m").max_batch_size == 4
        transport.close()


def test_an_answer_that_drips_is_given_up_in_time() -> None:
    def talk(connection: object) -> None:
        connection.recv(4_096)  # type: ignore[attr-defined]
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + b" " * 999:
            connection.sendall(bytes([byte]))  # type: ignore[attr-defined]
            time.sleep(0.05)

    with speaking(talk) as port:
        transport = connect(f"http://127.0.0.1:{port}", timeout_s=0.5)
        began = time.monotonic()
        with pytest.raises(errors.RequestTimeoutError):
            transport.model_config("m")
        assert time.monotonic() - began < 2
        transport.close()


def test_a_forked_process_opens_connections_of_its_own() -> None:
    with answering(lambda _: Answer(200, CONFIG)) as url:
        transport = connect(url)
        transport.model_config("m")
        child = os.fork()
        if not child:
            os._exit(0 if transport.model_config("m").max_batch_size == 4 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert transport.model_config("m").max_batch_size == 4
        transport.close()
