# SPDX-License-Identifier: Apache-2.0
"""Triton over HTTP, with binary tensors: tritonclient writes requests and reads answers, over connections of ours."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

import rapidjson
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from flagtriton import errors
from flagtriton.protocol.options.checks import OptionValue
from flagtriton.transport.base import TLS, InferenceReply, ModelConfig, ServerAddress, queue_time_us
from flagtriton.transport.connections import Connections, HttpAnswer
from flagtriton.transport.diagnosis import wrong_server
from flagtriton.transport.refusals import first_words, refusal, refused_by_dead_step, tritons_message

__all__ = ["HttpTransport"]

_ERRORS: dict[str, type[errors.FlagTritonError]] = {
    "400": errors.InvalidRequestError,
    "401": errors.AccessDeniedError,
    "403": errors.AccessDeniedError,
    "404": errors.ModelNotServedError,
    "413": errors.RequestTooLargeError,
    "408": errors.RequestTimeoutError,
    "429": errors.ServerUnavailableError,
    "502": errors.ServerUnavailableError,
    "503": errors.ServerUnavailableError,
    "504": errors.RequestTimeoutError,
}


_REDIRECTIONS = ("301", "302", "303", "307", "308")


class _Client(triton.InferenceServerClient):  # type: ignore[misc]
    """Triton's client, over connections that all threads share; tritonclient's own are for one thread and one process.

    Args:
        address: a path before Triton's own is kept.
        tls: None speaks plain text.
    """

    def __init__(self, address: ServerAddress, tls: TLS | None) -> None:
        self._verbose = False  # all that the methods used here want of the base class' own constructor
        self._connections = Connections(address.host_and_port, None if tls is None else partial(_ssl_context, tls))
        self._until = threading.local()

    @contextmanager
    def within(self, timeout_s: float) -> Iterator[None]:
        """Let the requests that this thread makes take so many seconds in all."""
        self._until.at = time.monotonic() + timeout_s
        yield

    def close(self) -> None:
        """Close all connections."""
        if "_connections" in self.__dict__:
            self._connections.close()

    def _get(self, request_uri: str, headers: Mapping[str, Any], query_params: object = None) -> HttpAnswer:
        return self._asked("GET", request_uri, None, headers)

    def _post(
        self, request_uri: str, request_body: bytes | str, headers: Mapping[str, Any], query_params: object = None
    ) -> HttpAnswer:
        body = request_body.encode() if isinstance(request_body, str) else request_body
        return self._asked("POST", request_uri, body, headers)

    def _asked(self, method: str, path: str, body: bytes | None, headers: Mapping[str, Any]) -> HttpAnswer:
        texts = {name: str(value) for name, value in headers.items()}
        answer = self._connections.ask(method, path, body, texts, self._until.at - time.monotonic())
        if answer.status_code != HTTPStatus.OK or not answer.body.startswith(b"{"):
            raise _Refused(answer)
        return answer


class _Refused(InferenceServerException):  # type: ignore[misc]
    """An answer that is none: what Triton said, or the first words of somebody else.

    Attributes:
        is_tritons: Triton sent it.
        location: where a redirection leads to.
        retry_after_s: for how long the server asks to be left alone.
    """

    def __init__(self, answer: HttpAnswer) -> None:
        message = tritons_message(answer.body)
        self.is_tritons = message is not None
        self.location = answer.get("location")
        seconds = answer.get("retry-after")
        self.retry_after_s = float(seconds) if seconds is not None and seconds.isdecimal() else None
        super().__init__(message or first_words(answer.status_code, answer.body), status=str(answer.status_code))


class HttpTransport:
    """A `Transport` over HTTP.

    Args:
        address: where the server is; a path before Triton's own `/v2` is kept.
        headers: sent with every request.
        tls: None speaks plain text.
        timeout_s: seconds that every request may take, from connecting to the last byte of its answer.
    """

    def __init__(self, address: ServerAddress, headers: Mapping[str, str], tls: TLS | None, timeout_s: float) -> None:
        self._address = address
        self._headers = dict(headers)
        self._tls = tls
        self._timeout_s = timeout_s
        self._has_answered = False
        self._is_closed = False
        self._open = _Client(address, tls)

    def __reduce__(self) -> tuple[type[HttpTransport], tuple[Any, ...]]:
        """Pickle what new connections need."""
        return type(self), (self._address, self._headers, self._tls, self._timeout_s)

    @property
    def address(self) -> str:
        """The server's URL, for messages."""
        return str(self._address)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        parameters: Mapping[str, OptionValue],
        timeout_s: float | None = None,
    ) -> InferenceReply:
        """Run one request."""
        allowed_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        with self._translated(model, allowed_s):
            result = self._client.infer(
                model,
                [_input_tensor(name, array) for name, array in inputs.items()],
                outputs=[triton.InferRequestedOutput(name, binary_data=True) for name in outputs],
                parameters=dict(parameters),
                headers=self._headers,
                timeout=queue_time_us(allowed_s),
            )
            return {name: result.as_numpy(name) for name in outputs}

    def model_config(self, model: str) -> ModelConfig:
        """Return a model's configuration."""
        with self._translated(model, self._timeout_s):
            reply = self._client.get_model_config(model, headers=self._headers)
            return ModelConfig.from_json(model, reply)

    def ready_models(self) -> list[str]:
        """Return the names of all models that are ready."""
        with self._translated("", self._timeout_s):
            # Not the repository's index, for which a server may want a secret.
            statistics = self._client.get_inference_statistics(headers=self._headers)
            return [model["name"] for model in statistics["model_stats"]]

    def close(self) -> None:
        """Close every connection."""
        self._is_closed = True
        self._open.close()

    @property
    def _client(self) -> _Client:
        if self._is_closed:
            raise errors.ClosedError(f"the connection to {self.address} is closed")
        return self._open

    @contextmanager
    def _translated(self, model: str, allowed_s: float) -> Iterator[None]:
        try:
            with self._client.within(allowed_s):
                yield
        except InferenceServerException as error:
            raise self._of_answer(error, model) from error
        except rapidjson.JSONDecodeError as error:
            said = f"answered something that is not Triton's: {error}"
            raise refusal(errors.ServerError, model, self._address, said) from error
        except (OSError, HTTPException) as error:
            raise self._of_failure(error, model, allowed_s) from error
        self._has_answered = True

    def _of_answer(self, error: InferenceServerException, model: str) -> errors.FlagTritonError:
        """Return what becomes of an answer that is a refusal."""
        status, message = error.status() or "", str(error.message())
        kind = _ERRORS.get(status, errors.ServerError)
        if refused_by_dead_step(message):
            kind = errors.ServerUnavailableError
        is_tritons = getattr(error, "is_tritons", True)
        if not is_tritons:
            if status == "200":
                message = f"{message}; that is no answer of Triton's HTTP port (8000 by default)"
            elif status in _REDIRECTIONS:
                kind, message = (
                    errors.WrongServerError,
                    f"{message}; it leads to {error.location}: give that server as url",
                )
            elif not self._has_answered and status in ("400", "404"):
                wrong = wrong_server(self._address, self._tls)
                if wrong is not None:
                    return wrong
                kind, message = errors.WrongServerError, f"{message}; that is not Triton's HTTP port (8000 by default)"
        self._has_answered |= is_tritons
        translated = refusal(kind, model, self._address, message)
        if isinstance(translated, errors.ServerUnavailableError):
            translated.retry_after_s = getattr(error, "retry_after_s", None)
        return translated

    def _of_failure(self, error: Exception, model: str, allowed_s: float) -> errors.FlagTritonError:
        """Return what becomes of a connection that broke, or could not be made; that may be for a wrong URL."""
        wrong = None if self._has_answered else wrong_server(self._address, self._tls)
        if wrong is not None:
            return wrong
        if isinstance(error, TimeoutError):
            said = f"no answer within {allowed_s:.3g} s"
            return refusal(errors.RequestTimeoutError, model, self._address, said)
        return refusal(errors.ServerUnavailableError, model, self._address, str(error) or type(error).__name__)


def _ssl_context(tls: TLS) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.root_certificates)
    if tls.certificate_chain is not None:
        context.load_cert_chain(tls.certificate_chain, tls.private_key)
    return context


def _input_tensor(name: str, array: NDArray[Any]) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=True)
    return tensor
