# SPDX-License-Identifier: Apache-2.0
"""FlagEmbedding's process pools and life cycle, where the processes are the server's instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flagtriton.checks import device_names
from flagtriton.served import ServedModel
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
