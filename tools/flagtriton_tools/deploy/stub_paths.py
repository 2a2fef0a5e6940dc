# SPDX-License-Identifier: Apache-2.0
"""Paths that bash reads without quotes, as the command line of a step has none.

Triton's Python backend starts each step with that line. It holds the backend's folder, the model's folder and name, and
EXECUTION_ENV_PATH. A space in one of them shifts all arguments after it. The process then aborts before Triton watches
it, and Triton never stops waiting for it.
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
"""Triton's parameter for the Python environment of a model's process, packed or unpacked."""

_ONE_WORD = re.compile(r"(\$\$TRITON_MODEL_DIRECTORY)?[A-Za-z0-9_./+@%,:=-]*")
_EXPECTED = "expected letters, digits and _ . / + @ % , : = - alone, as Triton hands it to a shell without quotes"


def is_one_word(text: str) -> bool:
    """Return whether bash, in any locale, reads a text as one word with no special meaning."""
    return _ONE_WORD.fullmatch(text) is not None


def plain_path(path: Path, link: Path) -> Path:
    """Return an absolute path to a folder that is one word: its real path, or the link `link`, which this creates.

    Args:
        path: path of the folder.
        link: path for the link. Only this process uses it, and an existing link is replaced.
    """
    path = path.resolve()
    if is_one_word(str(path)):
        return path
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    return link


def plain_temporary_folder() -> Path:
    """Return the temporary folder, or another writable one if its name is not one word.

    Raises:
        ToolError: there is none.
    """
    own = Path(tempfile.gettempdir())
    for folder in (own, TEMPORARY, Path("/var/tmp")):
        if is_one_word(str(folder)) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ToolError(f"TMPDIR is {own}; {_EXPECTED}, and neither /tmp nor /var/tmp can be written to")


def check_stub_words(repository: Path, models: list[str]) -> None:
    """Raise if a value of a Python model would break the command line that starts the model.

    Args:
        repository: folder of models.
        models: names of the models to serve.

    Raises:
        ToolError: the name of a model, or its EXECUTION_ENV_PATH, is not one word.
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
    """Return the environment variables with which the steps can open the Hugging Face cache, mostly none.

    The Python of the steps opens only ASCII file names; see `runtime_files.readable_path`.

    Raises:
        ToolError: the cache's path is not ASCII, and no link to it can be made.
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
