# SPDX-License-Identifier: Apache-2.0
"""Paths that bash can read without quotes: Triton's Python backend starts each step by such a command line.

In it stand the backend's folder, the model's folder and its name, and EXECUTION_ENV_PATH. A space in one of them shifts
those behind it, and the process aborts before Triton begins to watch it; Triton then waits for it for ever.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from flagtriton.protocol.runtime_files import TEMPORARY, link_to
from flagtriton_tools.deploy.pbtxt import read_config
from flagtriton_tools.errors import ToolError

__all__ = ["EXECUTION_ENV", "check_stub_words", "hub_cache", "is_one_word", "plain_path", "plain_temporary_folder"]

EXECUTION_ENV = "EXECUTION_ENV_PATH"
"""Triton's own parameter: the Python environment that a model's process runs in, packed or unpacked."""

_ONE_WORD = re.compile(r"(\$\$TRITON_MODEL_DIRECTORY)?[A-Za-z0-9_./+@%,:=-]*")
_EXPECTED = "expected letters, digits and _ . / + @ % , : = - alone, as Triton hands it to a shell without quotes"


def is_one_word(text: str) -> bool:
    """Return whether bash reads a text as one word that means itself, in any locale."""
    return _ONE_WORD.fullmatch(text) is not None


def plain_path(path: Path, link: Path) -> Path:
    """Return an absolute path to a folder that is one word: its own, or `link`, which is made.

    Args:
        path: of the folder.
        link: a place for a link, which this process alone uses; one that is there is replaced.
    """
    path = path.resolve()
    if is_one_word(str(path)):
        return path
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    return link


def plain_temporary_folder() -> Path:
    """Return the temporary folder, or, where its name is not one word, another that can be written to.

    Raises:
        ToolError: there is none.
    """
    own = Path(tempfile.gettempdir())
    for folder in (own, TEMPORARY, Path("/var/tmp")):
        if is_one_word(str(folder)) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ToolError(f"TMPDIR is {own}; {_EXPECTED}, and neither /tmp nor /var/tmp can be written to")


def check_stub_words(repository: Path, models: list[str]) -> None:
    """Raise where a Python model's own words would not survive the command line that starts it.

    Args:
        repository: a folder of models.
        models: those that are to be served.

    Raises:
        ToolError: the name of one, or its EXECUTION_ENV_PATH, is not one word.
    """
    for name in models:
        config = read_config(repository / name / "config.pbtxt")
        if config.backend != "python":
            continue
        environment = config.parameters[EXECUTION_ENV].string_value if EXECUTION_ENV in config.parameters else ""
        for what, word in {"the model's name": name, f"its {EXECUTION_ENV}": environment}.items():
            if not is_one_word(word):
                raise ToolError(f"{repository / name}: {what} is {word!r}; {_EXPECTED}")


def hub_cache() -> dict[str, str]:
    """Return what the steps' environment needs so that they can open the Hugging Face cache: nothing, mostly.

    Their Python takes ASCII names of files alone; see `runtime_files.readable_path`.

    Raises:
        ToolError: the cache's name is not ASCII, and no link to it can be made.
    """
    caches = {name: os.environ[name] for name in ("HF_HOME", "HF_HUB_CACHE") if os.environ.get(name)}
    if not caches:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path's raises
        caches = {"HF_HOME": str(Path(base, "huggingface"))}
    found = {name: Path(folder) for name, folder in caches.items() if not folder.isascii()}
    try:
        for folder in found.values():
            folder.mkdir(parents=True, exist_ok=True)
        return {name: str(link_to(folder.resolve())) for name, folder in found.items()}
    except OSError as error:
        raise ToolError(f"cannot make a link to {', '.join(map(str, found.values()))}: {error}") from error
