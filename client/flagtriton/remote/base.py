# SPDX-License-Identifier: Apache-2.0
"""FlagEmbedding's process pools and life cycle, where the processes are the server's instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flagtriton.checkpoints import checkpoint_name
from flagtriton.errors import DeploymentMismatchError
from flagtriton.remote.compatibility import device_names, served_devices
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.model import ServedModel
from flagtriton.types import DeviceSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ServedObject"]


class ServedObject:
    """What every class that stands for a deployment can do beside its proper work.

    Attributes:
        served: the deployment.
    """

    served: ServedModel

    def _connect(
        self,
        model_name_or_path: str,
        kwargs: dict[str, Any],
        compare: Callable[..., None],
        compared: Sequence[str],
    ) -> None:
        """Find the deployment, compare it with the caller's arguments, and keep as attributes those nobody knows.

        Args:
            model_name_or_path: a deployment's name, or the checkpoint it was made from.
            kwargs: what the constructor was given beyond its own arguments; loses all that is known.
            compare: raises where the deployment would answer another question, and warns of what else differs.
            compared: names among `kwargs` that `compare` takes; None where they were not given.

        Raises:
            FlagTritonError: the deployment is not there, or another than the caller expects; the connection is closed.
        """
        settings = ConnectionSettings.taken_from(kwargs)
        model_arguments = {name: kwargs.pop(name, None) for name in compared}
        self.kwargs = kwargs
        for name, value in kwargs.items():
            if not hasattr(type(self), name):  # an argument called `encode` must not hide the method
                setattr(self, name, value)
        self.served = ServedModel.find(checkpoint_name(model_name_or_path), settings)
        self.target_devices = served_devices(self.served.deployment)
        try:
            compare(**model_arguments)
        except (DeploymentMismatchError, ValueError):
            self.close()
            raise

    @staticmethod
    def get_target_devices(devices: DeviceSpec) -> list[str]:
        """Return `devices` as a list of names; None is `cpu`, as no device is sought on the client."""
        return ["cpu"] if devices is None else device_names(devices)

    def start_multi_process_pool(self, process_target_func: object = None) -> dict[str, list[object]]:
        """Return an empty pool, for code that keeps one: the server's instances are the processes."""
        return {"input": [], "output": [], "processes": []}

    @staticmethod
    def stop_multi_process_pool(pool: object) -> None:
        """Do nothing: there is nothing to stop."""

    def stop_self_pool(self) -> None:
        """End the worker threads, where FlagEmbedding ends its processes; a later call starts new ones."""
        self.served.release_threads()

    def close(self) -> None:
        """End the worker threads and close the connections; the object is not used again."""
        self.served.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
