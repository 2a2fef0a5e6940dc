# SPDX-License-Identifier: Apache-2.0
"""Send Celery tasks and print their results: `python -m tests.server.preforking_client TEXTS CALLS`."""

from __future__ import annotations

import json
import sys

from tests.server.preforking_app import tasks


def main(texts: str, calls: str) -> None:
    """Wait for all results, and print them as JSON."""
    sent = [tasks.send_task("encode", [json.loads(texts)]) for _ in range(int(calls))]
    sys.stdout.write(json.dumps([result.get(timeout=60) for result in sent]))


if __name__ == "__main__":
    main(*sys.argv[1:])
