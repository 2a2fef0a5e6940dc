# SPDX-License-Identifier: Apache-2.0
"""One deployment as the SDK sees it: what it says of itself, and many texts through it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flagtriton.batching import plan_requests
from flagtriton.errors import DeploymentMismatchError, FlagTritonError, ModelNotServedError
from flagtriton.parameters import ParameterError, read_parameters
from flagtriton.protocol import TEXT, Deployment, EmbedOptions, OptionValue, Tensor
from flagtriton.texts import text_size, text_tensor
from flagtriton.transport import TLS, InferenceReply, RetryPolicy, Transport, connect

__all__ = ["ConnectionSettings", "ServedModel"]

_BYTES_PER_REQUEST = 65_536
"""About 16,000 tokens: enough to keep a GPU busy, while their hidden states stay below 100 MB at D = 1,024."""

_DEPLOYMENT_KEYS = {"task", "model_class", "checkpoint"}
"""What tells a public ensemble's parameters from those of a step and of other people's models."""

_PROGRESS_DELAY_S = 2.0
"""Calls shorter than this show no progress bar unless asked to."""


Send: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""One request: row numbers to their vectors."""


@dataclass(frozen=True)
class ConnectionSettings:
    """How the SDK talks to its server; every class takes these as keyword arguments.

    Attributes:
        url: `grpc://`, `grpcs://`, `http://` or `https://` and `host:port`; None takes `FLAGTRITON_URL`, else
            `grpc://localhost:8001`.
        headers: sent with every request.
        ssl: True encrypts, as `grpcs://` and `https://` do; a `TLS` says with which certificates.
        timeout_s: seconds that one try of one request may take.
        concurrency: requests of one call in flight at once.
        retries: further tries when the server is away, overloaded or late.
        show_progress: True and False switch the progress bar; None shows one where a call takes over 2 s.
        transport: used in place of `url` and all that belongs to it, e.g. a `FakeTransport`.
    """

    url: str | None = None
    headers: Mapping[str, str] | None = None
    ssl: bool | TLS = False
    timeout_s: float = 60.0
    concurrency: int = 4
    retries: int = 5
    show_progress: bool | None = None
    transport: Transport | None = None

    @classmethod
    def taken_from(cls, arguments: MutableMapping[str, Any]) -> ConnectionSettings:
        """Return the settings among keyword arguments, which lose them.

        Raises:
            ValueError: `concurrency`, `retries` or `timeout_s` out of range.
        """
        names = [f.name for f in fields(cls) if f.name in arguments]
        settings = cls(**{name: arguments.pop(name) for name in names})
        if settings.concurrency < 1 or settings.retries < 0 or settings.timeout_s <= 0:
            raise ValueError(
                f"concurrency is {settings.concurrency}, retries {settings.retries}, timeout_s {settings.timeout_s}; "
                "expected at least 1, at least 0, and more than 0"
            )
        return settings

    def open_transport(self) -> Transport:
        """Return the transport that these settings describe."""
        if self.transport is not None:
            return self.transport
        tls = self.ssl if isinstance(self.ssl, TLS) else TLS() if self.ssl else None
        return connect(self.url, headers=self.headers, tls=tls, timeout_s=self.timeout_s)


@dataclass
class ServedModel:
    """A public ensemble of a running server. Safe to share between threads."""

    name: str
    deployment: Deployment
    max_batch_size: int
    settings: ConnectionSettings
    transport: Transport
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _executor: ThreadPoolExecutor | None = field(default=None, repr=False)

    @classmethod
    def find(cls, name: str, settings: ConnectionSettings) -> ServedModel:
        """Ask the server what it serves under `name`.

        Raises:
            ModelNotServedError: nothing; the message lists what it does serve.
            DeploymentMismatchError: a model that flagtriton did not make.
            ServerUnavailableError: the server does not answer.
        """
        transport = settings.open_transport()
        try:
            config = RetryPolicy(settings.retries).call(lambda: transport.model_config(name))
            deployment = read_parameters(Deployment, config.parameters, ignore_unknown=True)
        except ModelNotServedError as error:
            served = _public_models(transport)
            transport.close()
            raise ModelNotServedError(
                f"model {name!r} is not served at {transport.address}; served there: {served}. "
                f"To add it: flagtriton add CHECKPOINT --name {name} --repository REPOSITORY"
            ) from error
        except ParameterError as error:
            transport.close()
            raise DeploymentMismatchError(
                f"model {name!r} at {transport.address} is no flagtriton deployment: {error}. "
                "Name the public ensemble that `flagtriton add` made, not one of its steps"
            ) from error
        return cls(name, deployment, config.max_batch_size, settings, transport)

    def embed(
        self,
        texts: Sequence[str],
        options: EmbedOptions,
        output: Tensor,
        *,
        max_rows: int,
        show_progress: bool | None = None,
    ) -> NDArray[np.float32]:
        """Return one vector a text, `[B, D]` float32, in the order of the texts.

        Args:
            texts: at least one.
            options: sent with every request.
            output: which of the ensemble's outputs.
            max_rows: texts of one request; the deployment's `max_batch_size` holds too.
            show_progress: overrides the setting.
        """
        sizes = np.fromiter(map(text_size, texts), np.int64, len(texts))
        max_rows = min(max_rows, self.max_batch_size)
        plan = plan_requests(sizes, max_rows=max_rows, max_size=_BYTES_PER_REQUEST)
        parameters = options.to_parameters()

        def send(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            inputs = {TEXT.name: text_tensor([texts[row] for row in rows])}
            return self._infer(inputs, output, parameters)[output.name]

        shown = self.settings.show_progress if show_progress is None else show_progress
        if len(plan) == 1 and not shown:
            vectors = send(plan[0])
            in_order = np.empty_like(vectors)
            in_order[plan[0]] = vectors
            return in_order
        return self._gather(plan, self._send_all(send, plan), len(texts), shown)

    def release_threads(self) -> None:
        """End the worker threads once their requests are answered; a later call starts new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)

    def close(self) -> None:
        """End the worker threads and close the connections."""
        self.release_threads()
        self.transport.close()

    def _infer(
        self, inputs: Mapping[str, NDArray[Any]], output: Tensor, parameters: Mapping[str, OptionValue]
    ) -> InferenceReply:
        policy = RetryPolicy(self.settings.retries)
        return policy.call(lambda: self.transport.infer(self.name, inputs, [output.name], parameters))

    def _send_all(self, send: Send, plan: list[NDArray[np.int64]]) -> Iterator[NDArray[np.float32]]:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.settings.concurrency, "flagtriton")
            return self._executor.map(send, plan)

    def _gather(
        self,
        plan: list[NDArray[np.int64]],
        replies: Iterator[NDArray[np.float32]],
        count: int,
        shown: bool | None,
    ) -> NDArray[np.float32]:
        from tqdm.auto import tqdm

        delay = _PROGRESS_DELAY_S if shown is None else 0.0
        vectors: NDArray[np.float32] | None = None
        with tqdm(total=count, desc=self.name, unit="text", delay=delay, disable=shown is False) as bar:
            for rows, reply in zip(plan, replies, strict=True):
                if vectors is None:
                    vectors = np.empty((count, reply.shape[1]), dtype=reply.dtype)
                vectors[rows] = reply
                bar.update(len(rows))
        if vectors is None:
            raise ValueError("no texts to embed")
        return vectors


def _public_models(transport: Transport) -> str:
    """Return the names of the ready models that are flagtriton ensembles, for a message."""
    public = []
    try:
        for name in transport.ready_models():
            if set(transport.model_config(name).parameters) >= _DEPLOYMENT_KEYS:
                public.append(name)
    except FlagTritonError as error:
        return f"unknown ({error})"
    return ", ".join(public) or "none"
