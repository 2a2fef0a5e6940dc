# SPDX-License-Identifier: Apache-2.0
"""Programs that make and use a model and then fork: a WSGI application and Celery tasks.

The server's URL is in `FLAGTRITON_URL`; Celery's messages lie in the folder `CELERY_FOLDER`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from celery import Celery

from flagtriton import FlagModel

MODEL = FlagModel("bert-cls", url=os.environ["FLAGTRITON_URL"], batch_size=2)
MODEL.encode(["made and used", "before", "the fork"])

FOLDER = Path(os.environ.get("CELERY_FOLDER", "celery"))
tasks = Celery(
    "preforking_app",
    broker="filesystem://",
    backend=(FOLDER / "results").as_uri(),
    broker_transport_options={
        "data_folder_in": str(FOLDER / "queue"),
        "data_folder_out": str(FOLDER / "queue"),
        "control_folder": str(FOLDER / "control"),
    },
)


@tasks.task(name="encode")  # type: ignore[untyped-decorator]
def encode(texts: list[str]) -> tuple[int, list[list[float]]]:
    """Return the process and the vectors of texts."""
    return os.getpid(), MODEL.encode(texts).tolist()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the process and the vectors of the `text`s in the query."""
    texts = parse_qs(environ["QUERY_STRING"])["text"]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), MODEL.encode(texts).tolist()]).encode()]
