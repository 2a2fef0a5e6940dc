# SPDX-License-Identifier: Apache-2.0
"""One deployment as the SDK sees it: what it says of itself, and many texts through it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

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
from flagtriton.protocol.tensors import ALL_COMPONENTS, TEXT, Tensor
from flagtriton.protocol.text import text_sizes, text_tensor
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.planning import plan_pairs, plan_requests
from flagtriton.remote.pool import Dispatcher, Rows
from flagtriton.remote.sending import sent_in_parts
from flagtriton.transport.base import Deadline, InferenceReply, Transport

__all__ = ["ServedModel"]

_BYTES_PER_REQUEST = 65_536
"""About 16,000 tokens: enough to keep a GPU busy, while their hidden states stay below 100 MB at D = 1,024."""

_PROGRESS_DELAY_S = 2.0
"""Calls shorter than this show no progress bar unless asked to."""


@dataclass(frozen=True)
class ServedModel:
    """A public ensemble of a running server. Safe to share between threads."""

    name: str
    deployment: Deployment
    max_batch_size: int
    settings: ConnectionSettings
    transport: Transport
    dispatcher: Dispatcher

    @classmethod
    def find(cls, name: str, settings: ConnectionSettings) -> ServedModel:
        """Ask the server what it serves under `name`.

        Raises:
            ValueError: the name is empty.
            ModelNotServedError: nothing; the message lists what it does serve.
            DeploymentMismatchError: a model that flagtriton did not make.
            ServerUnavailableError: the server does not answer.
        """
        if not name:
            raise ValueError("the model's name is empty; name a deployment, or the checkpoint it was made from")
        transport = settings.open_transport()
        try:
            config = settings.first_retry_policy.call(lambda: transport.model_config(name))
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
        """Return another model of this deployment's, over the same connections: its scorer, or a step.

        Raises:
            ModelNotServedError: it is not loaded.
        """
        try:
            config = self.settings.first_retry_policy.call(lambda: self.transport.model_config(name))
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
        vectors: NDArray[np.float32] = np.empty((0, 0), np.float32)

        def add(rows: Rows, reply: InferenceReply) -> None:
            nonlocal vectors
            if not len(vectors):
                vectors = np.empty((len(texts), reply[output.name].shape[1]), np.float32)
            vectors[rows] = reply[output.name]

        requests = self.plan(texts, max_rows=max_rows)
        self.collect(add, requests, {TEXT: texts}, [output], options, show_progress=show_progress)
        return vectors

    def plan(self, texts: Sequence[str], *, max_rows: int, max_area: int | None = None) -> list[Rows]:
        """Return which texts travel together; `batching` describes the limits."""
        max_rows = min(max_rows, self.max_batch_size)
        return plan_requests(text_sizes(texts), max_rows=max_rows, max_bytes=_BYTES_PER_REQUEST, max_area=max_area)

    def plan_pairs(
        self, queries: Sequence[str], passages: Sequence[str], *, max_rows: int, max_bytes: int = _BYTES_PER_REQUEST
    ) -> list[Rows]:
        """Return which pairs travel together; `batching` describes the limits."""
        sizes = text_sizes(queries), text_sizes(passages)
        max_rows = min(max_rows, self.max_batch_size)
        return plan_pairs(queries, *sizes, max_rows=max_rows, max_bytes=max_bytes)

    def collect(
        self,
        add: Callable[[Rows, InferenceReply], object],
        requests: Sequence[Rows],
        inputs: Mapping[Tensor, Sequence[str]],
        outputs: Sequence[Tensor],
        options: EmbedOptions | RerankOptions | ScoreOptions,
        *,
        unit: str = "text",
        show_progress: bool | None = None,
    ) -> None:
        """Send every request, and hand each with its reply to `add` as they come; the arguments are `replies`'."""
        with closing(
            self.replies(requests, inputs, outputs, options, unit=unit, show_progress=show_progress)
        ) as replies:
            for rows, reply in replies:
                add(rows, reply)

    def replies(
        self,
        requests: Sequence[Rows],
        inputs: Mapping[Tensor, Sequence[str]],
        outputs: Sequence[Tensor],
        options: EmbedOptions | RerankOptions | ScoreOptions,
        *,
        unit: str = "text",
        show_progress: bool | None = None,
    ) -> Generator[tuple[Rows, InferenceReply], None, None]:
        """Yield every request with its reply as they come, the texts of row r being entry r of each input.

        A request that is too large for the server, or for a gateway before it, comes in several parts. An error that
        is about one text names the caller's index, which is its row here.

        Args:
            requests: which rows travel together.
            inputs: the texts of each input tensor.
            outputs: what is asked for.
            options: sent with every request.
            unit: what the progress bar counts.
            show_progress: overrides the setting.
        """
        bulk = self.settings.is_bulk(len(requests))
        parameters = {**replace(options, bulk=bulk).to_parameters(), **self._said(options)}
        wanted = [output.name for output in outputs]
        deadline = Deadline.after(self.settings.timeout_s)

        def send(rows: Rows, stopped: threading.Event | None = None) -> list[tuple[Rows, InferenceReply]]:
            tensors = {spec.name: text_tensor([texts[row] for row in rows]) for spec, texts in inputs.items()}
            return sent_in_parts(
                rows, tensors, lambda tensors: self.infer(tensors, wanted, parameters, stopped, deadline), unit
            )

        shown = self.settings.show_progress if show_progress is None else show_progress
        if len(requests) == 1 and not shown:
            yield from send(requests[0])
            return
        from tqdm.auto import tqdm

        delay = _PROGRESS_DELAY_S if shown is None else 0.0
        total = sum(map(len, requests))
        with (
            tqdm(total=total, desc=self.name, unit=unit, delay=delay, disable=shown is False) as bar,
            closing(self.dispatcher.replies(send, requests)) as replies,
        ):
            for rows, parts in replies:
                yield from parts
                bar.update(len(rows))

    def _said(self, options: EmbedOptions | RerankOptions | ScoreOptions) -> dict[str, OptionValue]:
        """Return options that have their default, and must be said: the deployment's own default is another."""
        said: dict[str, OptionValue] = {}
        if not isinstance(options, EmbedOptions):
            return said
        if self.deployment.normalize is False:
            said["normalize"] = options.normalize
        if self.deployment.truncate_dim is not None:
            said["truncate_dim"] = options.truncate_dim or ALL_COMPONENTS
        if self.deployment.default_prompt_name is not None and options.prompt_name is None and not options.input_type:
            said["prompt_name"] = ""
        return said

    def infer(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        parameters: Mapping[str, OptionValue],
        stopped: threading.Event | None = None,
        deadline: Deadline | None = None,
    ) -> InferenceReply:
        """Send one request, and again where that may help, until `stopped` is set or the deadline has come.

        Without a deadline the request is a call of its own.
        """
        until = Deadline.after(self.settings.timeout_s) if deadline is None else deadline

        def once() -> InferenceReply:
            try:
                return self.transport.infer(self.name, inputs, outputs, parameters, until.left_s())
            except ModelNotServedError as error:  # it was there, so the server is stopping, starting or reloading it
                raise ServerUnavailableError(str(error)) from error

        return self.settings.retry_policy.call(once, stopped, until)

    def release_threads(self) -> None:
        """End the worker threads once their requests are answered; a later call starts new ones."""
        self.dispatcher.release()

    def close(self) -> None:
        """End the worker threads and close the connections."""
        self.release_threads()
        self.transport.close()


def _explained(error: BaseException, name: str, transport: Transport) -> BaseException:
    """Return an error that says what to do about a deployment that could not be found, or the same one."""
    if isinstance(error, ModelNotServedError):
        served, same = _public_models(transport, name)
        return ModelNotServedError(
            f"model {name!r} is not served at {transport.address}; served there: {served}. "
            + (f"{' and '.join(same)} was added from a checkpoint of that name: pass this name. " if same else "")
            + f"To add it: flagtriton add CHECKPOINT --name {quote(name)} --repository REPOSITORY"
        )
    if isinstance(error, ParameterError):
        return DeploymentMismatchError(
            f"model {name!r} at {transport.address} was not made by `flagtriton add` ({error}), or is one of the "
            "private steps; name the public ensemble"
        )
    return error


def _public_models(transport: Transport, checkpoint: str) -> tuple[str, list[str]]:
    """Return the names of the ready models that are flagtriton ensembles, for a message.

    The second item is those among them whose checkpoint goes by a name.
    """
    public, same = [], []
    try:
        for name in transport.ready_models():
            parameters = transport.model_config(name).parameters
            if set(parameters) >= DEPLOYMENT_KEYS:
                public.append(name)
                if checkpoint_name(parameters["checkpoint"]) == checkpoint:
                    same.append(name)
    except FlagTritonError as error:
        return f"unknown ({error})", []
    return ", ".join(public) or "none", same
