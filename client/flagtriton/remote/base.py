# SPDX-License-Identifier: Apache-2.0
"""`ServedObject`: the connection and life cycle that embedders and rerankers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from flagtriton.checkpoints import checkpoint_name
from flagtriton.errors import DeploymentMismatchError
from flagtriton.remote.compatibility import device_names, served_devices
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.model import ServedModel
from flagtriton.types import DeviceSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FOUND_MODEL", "ServedObject"]

FOUND_MODEL: Final = "_found_model"
"""Keyword argument by which a factory passes the `ServedModel` that it has found to the constructor."""


class ServedObject:
    """A Python object for one deployment, with FlagEmbedding's process-pool methods.

    The server's model instances take the place of FlagEmbedding's processes, so a pool is empty.

    Attributes:
        served: the deployment.
        target_devices: names of the deployment's devices.
    """

    served: ServedModel
    target_devices: list[str]

    def _connect(
        self,
        model_name_or_path: str,
        kwargs: dict[str, Any],
        compare: Callable[..., None],
        compared: Sequence[str],
    ) -> None:
        """Find the deployment and compare it with the caller's arguments. Unknown arguments become attributes.

        Args:
            model_name_or_path: a deployment's name, or the checkpoint it was made from.
            kwargs: the constructor's extra arguments; known ones are removed.
            compare: function that raises or warns if the deployment differs from the arguments.
            compared: names of the extra arguments that `compare` takes; missing ones are None.

        Raises:
            FlagTritonError: the deployment was not found, or differs; the connection is closed.
        """
        settings = ConnectionSettings.pop_from(kwargs)
        found: ServedModel | None = kwargs.pop(FOUND_MODEL, None)
        model_arguments = {name: kwargs.pop(name, None) for name in compared}
        self.kwargs = kwargs
        for name, value in kwargs.items():
            if not hasattr(type(self), name):  # an argument called `encode` must not hide the method
                setattr(self, name, value)
        self.served = found or ServedModel.find(checkpoint_name(model_name_or_path), settings)
        self.target_devices = served_devices(self.served.deployment)
        try:
            compare(**model_arguments)
        except (DeploymentMismatchError, ValueError):
            self.close()
            raise

    @staticmethod
    def get_target_devices(devices: DeviceSpec) -> list[str]:
        """Return `devices` as a list of names; None is `cpu`, as the client uses no device."""
        return ["cpu"] if devices is None else device_names(devices)

    def start_multi_process_pool(self, process_target_func: object = None) -> dict[str, list[object]]:
        """Return an empty pool; the server's model instances take its place."""
        return {"input": [], "output": [], "processes": []}

    @staticmethod
    def stop_multi_process_pool(pool: object) -> None:
        """Do nothing, as a pool is empty."""

    def stop_self_pool(self) -> None:
        """End the worker threads; a later call starts new ones. FlagEmbedding ends its processes here."""
        self.served.release_threads()

    def close(self) -> None:
        """End the worker threads and close the connections. Later calls raise `ClosedError`."""
        self.served.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
