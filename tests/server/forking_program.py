# SPDX-License-Identifier: Apache-2.0
"""A program whose object was made before it forks: `python -m tests.server.forking_program URL HOW`."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import warnings

import numpy as np

from flagtriton import FlagModel

TEXTS = [f"text {number}" for number in range(20)]


def main(url: str, how: str) -> int:
    """Return 0 if every process gets the parent's vectors for a list that takes several requests."""
    warnings.simplefilter("ignore")
    model = FlagModel("bert-cls", url=url, batch_size=4, request_timeout_s=10)
    expected = model.encode(TEXTS)
    if how == "loader":
        return _loader(model, expected)
    if how in ("fork", "spawn"):
        with multiprocessing.get_context(how).Pool(2) as pool:
            return int(not all(np.allclose(own, expected, atol=1e-6) for own in pool.map(model.encode, [TEXTS] * 4)))
    stopped = threading.Event()
    threads = [threading.Thread(target=_go_on, args=(model, stopped)) for _ in range(2 if how == "busy" else 0)]
    for thread in threads:
        thread.start()
    failures = sum(_child_fails(model, expected) for _ in range(5))
    stopped.set()
    for thread in threads:
        thread.join()
    return failures + int(not np.allclose(model.encode(TEXTS), expected, atol=1e-6))


def _child_fails(model: FlagModel, expected: np.ndarray) -> bool:
    child = os.fork()
    if not child:
        os._exit(0 if np.allclose(model.encode(TEXTS), expected, atol=1e-6) else 1)
    return os.waitpid(child, 0)[1] != 0


def _go_on(model: FlagModel, stopped: threading.Event) -> None:
    while not stopped.is_set():
        model.encode(TEXTS)


def _loader(model: FlagModel, expected: np.ndarray) -> int:
    from torch.utils.data import DataLoader

    batches = DataLoader(TEXTS, batch_size=10, num_workers=2, collate_fn=model.encode, multiprocessing_context="fork")
    return int(not np.allclose(np.concatenate(list(batches)), expected, atol=1e-6))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
