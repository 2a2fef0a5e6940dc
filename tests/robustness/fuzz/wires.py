# SPDX-License-Identifier: Apache-2.0
"""Attacks onto the wire, and what became of them. Every wait has an end."""

from __future__ import annotations

import contextlib
import enum
import json
import re
import socket
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

import grpc
from tritonclient.grpc import service_pb2

from tests.robustness.fuzz.attack import Attack, Manner, Wire
from tests.robustness.fuzz.serving import Target

__all__ = ["ANSWER_WITHIN_S", "Fate", "Outcome", "Sender"]

ANSWER_WITHIN_S = 60.0
_DRIP_EVERY_S, _DRIPS = 0.05, 12
_CANCEL_AFTER_S = 0.003


class Fate(enum.Enum):
    """What became of a request."""

    SUCCESS = "success"
    REFUSED = "refused (4xx, INVALID_ARGUMENT, …)"
    FAILED = "failed (5xx, INTERNAL)"
    AWAY = "unavailable (503, UNAVAILABLE)"
    CLOSED = "closed"
    LEFT = "left by the client"
    HUNG = "no answer"


@dataclass(frozen=True)
class Outcome:
    """How the server dealt with one request; `code` and `message` are its own words."""

    fate: Fate
    code: str = ""
    message: str = ""


_OF_GRPC = {
    grpc.StatusCode.INTERNAL: Fate.FAILED,
    grpc.StatusCode.UNKNOWN: Fate.FAILED,
    grpc.StatusCode.UNAVAILABLE: Fate.AWAY,
    grpc.StatusCode.DEADLINE_EXCEEDED: Fate.HUNG,
    grpc.StatusCode.CANCELLED: Fate.LEFT,
}


class Sender:
    """One thread's way to a server."""

    def __init__(self, target: Target) -> None:
        self._http = target.http_address
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(target.grpc, [*unlimited, ("grpc.use_local_subchannel_pool", 1)])
        grpc.channel_ready_future(self._channel).result(ANSWER_WITHIN_S)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def send(self, attack: Attack) -> Outcome:
        """Send one attack; return once its fate is known."""
        if attack.wire is Wire.HTTP:
            return self._over_http(attack)
        try:
            return self._stream(attack) if attack.wire is Wire.STREAM else self._call(attack)
        except grpc.RpcError as error:
            code = error.code()
            return Outcome(_OF_GRPC.get(code, Fate.REFUSED), code.name, error.details() or "")

    def _call(self, attack: Attack) -> Outcome:
        call = self._channel.unary_unary(attack.method)
        if attack.manner is Manner.LEAVES:
            future = call.future(attack.payload, timeout=ANSWER_WITHIN_S)
            time.sleep(_CANCEL_AFTER_S)
            future.cancel()
            return Outcome(Fate.LEFT)
        call(attack.payload, timeout=ANSWER_WITHIN_S)
        return Outcome(Fate.SUCCESS, "OK")

    def _stream(self, attack: Attack) -> Outcome:
        call = self._channel.stream_stream(attack.method)(iter([attack.payload]), timeout=ANSWER_WITHIN_S)
        if attack.manner is Manner.LEAVES:
            time.sleep(_CANCEL_AFTER_S)
            call.cancel()
            return Outcome(Fate.LEFT)
        said = [service_pb2.ModelStreamInferResponse.FromString(part).error_message for part in call]
        if not said:
            return Outcome(Fate.CLOSED, "no message")
        refused = next(filter(None, said), None)
        return Outcome(Fate.SUCCESS, "OK") if refused is None else Outcome(_of_words(refused), "in stream", refused)

    def _over_http(self, attack: Attack) -> Outcome:
        try:
            connection = socket.create_connection(self._http, timeout=ANSWER_WITHIN_S)
        except OSError as error:
            return Outcome(Fate.AWAY, type(error).__name__, str(error))
        with connection:
            with contextlib.suppress(OSError):  # it may have answered before it closed
                self._send(connection, attack)
            if attack.manner in (Manner.LEAVES, Manner.DRIPS):
                return Outcome(Fate.LEFT)
            return _http_outcome(connection)

    def _send(self, connection: socket.socket, attack: Attack) -> None:
        if attack.manner is Manner.DRIPS:
            piece = max(1, len(attack.payload) // (_DRIPS * 2))
            for start in range(0, piece * _DRIPS, piece):
                connection.sendall(attack.payload[start : start + piece])
                time.sleep(_DRIP_EVERY_S)
            return
        connection.sendall(attack.payload)
        if attack.manner is Manner.ENDS:
            connection.shutdown(socket.SHUT_WR)


def _http_outcome(connection: socket.socket) -> Outcome:
    reply = HTTPResponse(connection, method="POST")
    try:
        reply.begin()
        text = reply.read().decode(errors="replace")
    except TimeoutError:
        return Outcome(Fate.HUNG, "timeout")
    except (OSError, HTTPException) as error:
        return Outcome(Fate.CLOSED, type(error).__name__)
    finally:
        reply.close()
    message = _error_in(text)
    if reply.status == 503:
        return Outcome(Fate.AWAY, "503", message)
    if reply.status >= 500:
        return Outcome(Fate.FAILED, str(reply.status), message)
    if reply.status >= 400:
        return Outcome(Fate.REFUSED, str(reply.status), message)
    if text.startswith("data:") and message:  # one of a stream's events
        return Outcome(_of_words(message), "in stream", message)
    return Outcome(Fate.SUCCESS, str(reply.status))


def _error_in(text: str) -> str:
    found = re.search(r'\{"error":.*', text)
    if found is None:
        return text[:200] if not text.startswith(("data:", '{"')) else ""
    try:
        return str(json.loads(found[0])["error"])
    except ValueError:
        return found[0]


def _of_words(message: str) -> Fate:
    """Return the fate of a request in a stream, whose errors come without a code."""
    broken = ("Failed to process the request", "is not healthy", "Stub process", "Traceback", "[internal]")
    return Fate.FAILED if any(word in message for word in broken) else Fate.REFUSED
