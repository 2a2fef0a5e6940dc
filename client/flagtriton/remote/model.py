# SPDX-License-Identifier: Apache-2.0
"""One deployment: its description, its requests, and its companion models."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flagtriton.checkpoints import checkpoint_name
from flagtriton.errors import (
    DeploymentMismatchError,
    FlagTritonError,
    ModelNotServedError,
    ServerUnavailableError,
)
from flagtriton.protocol.deployment import DEPLOYMENT_KEYS, Deployment
from flagtriton.protocol.options.checks import OptionValue
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.parameters import ParameterError, read_parameters
from flagtriton.protocol.tensors import ALL_COMPONENTS, TEXT, TensorSpec
from flagtriton.protocol.text import text_sizes, text_tensor
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.deadline import Deadline
from flagtriton.remote.planning import Collector, RowCollector, Rows, plan_pairs, plan_requests, send_or_split
from flagtriton.remote.pool import Dispatcher
from flagtriton.transport.base import InferenceReply, InferRequest, Transport

__all__ = ["ServedModel"]

R = TypeVar("R")

_BYTES_PER_REQUEST = 65_536
"""About 16,000 tokens: enough to keep a GPU busy, while their hidden states stay below 100 MB at D = 1,024."""

_PROGRESS_DELAY_S = 2.0
"""Seconds before a call shows a progress bar unasked."""


@dataclass(frozen=True)
class ServedModel:
    """A model of a running server. Safe to share between threads.

    Attributes:
        name: name of the model.
        deployment: description of the public ensemble that the model belongs to.
        max_batch_size: rows of one request, at most.
        settings: settings of the connection.
        transport: the connection.
        dispatcher: the threads for calls of several requests.
    """

    name: str
    deployment: Deployment
    max_batch_size: int
    settings: ConnectionSettings
    transport: Transport
    dispatcher: Dispatcher

    @classmethod
    def find(cls, name: str, settings: ConnectionSettings) -> ServedModel:
        """Connect to the server and return its deployment of that name.

        Raises:
            ValueError: the name is empty.
            ModelNotServedError: there is no such deployment; the message lists those there are.
            DeploymentMismatchError: the model was not made by flagtriton.
            ServerUnavailableError: the server does not reply.
        """
        if not name:
            raise ValueError("the model's name is empty; name a deployment, or the checkpoint it was made from")
        transport = settings.open_transport()
        try:
            config = settings.lookup_retry_policy.call(lambda: transport.model_config(name))
            deployment = read_parameters(Deployment, config.parameters, ignore_unknown=True)
        except BaseException as error:
            explained = _explained(error, name, transport)
            transport.close()
            if explained is error:
                raise
            raise explained from error
        dispatcher = Dispatcher(settings.concurrency)
        return cls(name, deployment, config.max_batch_size, settings, transport, dispatcher)

    def companion(self, name: str) -> ServedModel:
        """Return another model of this deployment, such as its scorer, over the same connection.

        Raises:
            ModelNotServedError: the model is not loaded.
        """
        try:
            config = self.settings.lookup_retry_policy.call(lambda: self.transport.model_config(name))
        except ModelNotServedError as error:
            raise ModelNotServedError(
                f"{self.name} is served at {self.transport.address}, but {name}, which belongs to it, is not; load it, "
                "or serve the repository with `flagtriton serve`, which loads both"
            ) from error
        return replace(self, name=name, max_batch_size=config.max_batch_size)

    def embed(
        self,
        texts: Sequence[str],
        options: EmbedOptions,
        output: TensorSpec,
        *,
        max_rows: int,
        show_progress: bool | None = None,
    ) -> NDArray[np.float32]:
        """Return one vector per text, `[B, D]` float32, in the order of the texts.

        Args:
            texts: B texts, at least one.
            options: options of every request.
            output: the output tensor to return.
            max_rows: texts of one request, at most; the deployment's `max_batch_size` holds too.
            show_progress: progress bar of this call; None takes the connection's setting.
        """
        collector = RowCollector(len(texts), output)
        requests = self.plan(texts, max_rows=max_rows)
        return self.collect(collector, requests, {TEXT: texts}, [output], options, show_progress=show_progress)

    def plan(self, texts: Sequence[str], *, max_rows: int, max_area: int | None = None) -> list[Rows]:
        """Return the texts of each request; `plan_requests` describes the limits."""
        max_rows = min(max_rows, self.max_batch_size)
        return plan_requests(text_sizes(texts), max_rows=max_rows, max_bytes=_BYTES_PER_REQUEST, max_area=max_area)

    def plan_pairs(
        self, queries: Sequence[str], passages: Sequence[str], *, max_rows: int, max_bytes: int = _BYTES_PER_REQUEST
    ) -> list[Rows]:
        """Return the pairs of each request; `planning.plan_pairs` describes the limits."""
        sizes = text_sizes(queries), text_sizes(passages)
        max_rows = min(max_rows, self.max_batch_size)
        return plan_pairs(queries, *sizes, max_rows=max_rows, max_bytes=max_bytes)

    def collect(
        self,
        collector: Collector[R],
        requests: Sequence[Rows],
        inputs: Mapping[TensorSpec, Sequence[str]],
        outputs: Sequence[TensorSpec],
        options: EmbedOptions | RerankOptions | ScoreOptions,
        *,
        unit: str = "text",
        show_progress: bool | None = None,
    ) -> R:
        """Send every request, add the replies to `collector`, and return its result; see `replies`."""
        with closing(
            self.replies(requests, inputs, outputs, options, unit=unit, show_progress=show_progress)
        ) as replies:
            for rows, reply in replies:
                collector.add(rows, reply)
        return collector.result()

    def replies(
        self,
        requests: Sequence[Rows],
        inputs: Mapping[TensorSpec, Sequence[str]],
        outputs: Sequence[TensorSpec],
        options: EmbedOptions | RerankOptions | ScoreOptions,
        *,
        unit: str = "text",
        show_progress: bool | None = None,
    ) -> Generator[tuple[Rows, InferenceReply], None, None]:
        """Yield the rows of every request with their reply, in order of arrival.

        A request that is too large for the server or a gateway is halved and yields several replies.

        Args:
            requests: the rows of each request.
            inputs: the texts of each input tensor; row r is entry r of each.
            outputs: the output tensors to return.
            options: options of every request.
            unit: name of a row in messages and in the progress bar.
            show_progress: progress bar of this call; None takes the connection's setting.

        Raises:
            FlagTritonError: a request failed after all retries. An error about one row names its index.
        """
        bulk = self.settings.is_bulk(len(requests))
        parameters = {**replace(options, bulk=bulk).to_parameters(), **self._explicit_defaults(options)}
        output_names = [output.name for output in outputs]
        deadline = self._deadline()

        def send(rows: Rows, stopped: threading.Event | None = None) -> list[tuple[Rows, InferenceReply]]:
            tensors = {spec.name: text_tensor([texts[row] for row in rows]) for spec, texts in inputs.items()}
            return send_or_split(
                rows,
                tensors,
                lambda part: self._send(InferRequest(self.name, part, output_names, parameters), stopped, deadline),
                unit,
            )

        progress = self.settings.show_progress if show_progress is None else show_progress
        if len(requests) == 1 and not progress:
            yield from send(requests[0])
            return
        from tqdm.auto import tqdm

        delay = _PROGRESS_DELAY_S if progress is None else 0.0
        total = sum(map(len, requests))
        with (
            tqdm(total=total, desc=self.name, unit=unit, delay=delay, disable=progress is False) as bar,
            closing(self.dispatcher.replies(send, requests)) as replies,
        ):
            for rows, sent in replies:
                yield from sent
                bar.update(len(rows))

    def infer(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], parameters: Mapping[str, OptionValue]
    ) -> InferenceReply:
        """Send one request as a separate call, with retries, and return its output tensors."""
        return self._send(InferRequest(self.name, inputs, outputs, parameters), None, self._deadline())

    def release_threads(self) -> None:
        """End the worker threads once their requests are done; a later call starts new ones."""
        self.dispatcher.release()

    def close(self) -> None:
        """End the worker threads and close the connections."""
        self.release_threads()
        self.transport.close()

    def _send(
        self, request: InferRequest, stopped: threading.Event | None, deadline: Deadline | None
    ) -> InferenceReply:
        """Send one request, with retries until `stopped` is set or the deadline has passed."""

        def attempt() -> InferenceReply:
            timeout_s = None if deadline is None else deadline.left_s()
            try:
                return self.transport.infer(replace(request, timeout_s=timeout_s))
            except ModelNotServedError as error:  # it was found before: the server stops, starts or reloads it
                raise ServerUnavailableError(str(error)) from error

        return self.settings.retry_policy.call(attempt, stopped, deadline)

    def _deadline(self) -> Deadline | None:
        """Return the deadline of a call that starts now; None without a limit."""
        timeout_s = self.settings.timeout_s
        return None if timeout_s is None else Deadline.after(timeout_s)

    def _explicit_defaults(self, options: EmbedOptions | RerankOptions | ScoreOptions) -> dict[str, OptionValue]:
        """Return the options that equal their own defaults but not the deployment's, and so must be sent."""
        explicit: dict[str, OptionValue] = {}
        if not isinstance(options, EmbedOptions):
            return explicit
        if self.deployment.normalize is False:
            explicit["normalize"] = options.normalize
        if self.deployment.truncate_dim is not None:
            explicit["truncate_dim"] = options.truncate_dim or ALL_COMPONENTS
        if self.deployment.default_prompt_name is not None and options.prompt_name is None and not options.input_type:
            explicit["prompt_name"] = ""
        return explicit


def _explained(error: BaseException, name: str, transport: Transport) -> BaseException:
    """Return an error with advice about a deployment that was not found, or the same error."""
    if isinstance(error, ModelNotServedError):
        served, same_checkpoint = _public_models(transport, name)
        hint = ""
        if same_checkpoint:
            hint = f"{' and '.join(same_checkpoint)} was added from a checkpoint of that name: pass this name. "
        return ModelNotServedError(
            f"model {name!r} is not served at {transport.address}; served there: {served}. "
            f"{hint}To add it: flagtriton add CHECKPOINT --name {quote(name)} --repository REPOSITORY"
        )
    if isinstance(error, ParameterError):
        return DeploymentMismatchError(
            f"model {name!r} at {transport.address} was not made by `flagtriton add` ({error}), or is one of the "
            "private steps; name the public ensemble"
        )
    return error


def _public_models(transport: Transport, checkpoint: str) -> tuple[str, list[str]]:
    """Return the names of the ready public ensembles for a message, and those made from `checkpoint`."""
    public, same_checkpoint = [], []
    try:
        for name in transport.ready_models():
            parameters = transport.model_config(name).parameters
            if set(parameters) >= DEPLOYMENT_KEYS:
                public.append(name)
                if checkpoint_name(parameters["checkpoint"]) == checkpoint:
                    same_checkpoint.append(name)
    except FlagTritonError as error:
        return f"unknown ({error})", []
    return ", ".join(public) or "none", same_checkpoint
