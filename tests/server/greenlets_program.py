# SPDX-License-Identifier: Apache-2.0
"""A program of greenlets: others run while a call waits. `python -m tests.server.greenlets_program URL`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - gevent goes before all else
import warnings  # noqa: E402

import gevent  # noqa: E402
import numpy as np  # noqa: E402

from flagtriton import FlagModel  # noqa: E402

TEXTS = [f"text {number}" for number in range(40)]


def main(url: str) -> int:
    """Return 0 if lists in several greenlets get the vectors of one, and another greenlet ran meanwhile."""
    warnings.simplefilter("ignore")
    model = FlagModel("bert-cls", url=url, batch_size=2)
    expected = model.encode(TEXTS)
    turns = 0

    def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0.001)

    ticking = gevent.spawn(tick)
    jobs = [gevent.spawn(model.encode, TEXTS) for _ in range(4)]
    gevent.joinall(jobs, raise_error=True)
    ticking.kill()
    return int(turns < 10 or not all(np.allclose(job.value, expected, atol=1e-6) for job in jobs))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
