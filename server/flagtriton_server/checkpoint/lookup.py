# SPDX-License-Identifier: Apache-2.0
"""Finds the small files of a checkpoint, in its local folder or in the hub. Imports no large library."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

from flagtriton.protocol.runtime_files import readable_path

__all__ = ["FileFinder", "FilesUnavailableError", "FolderGoneError", "file_finder"]

_WAIT_S = 3.0
_OF_WHOLE_SNAPSHOTS = ".gitattributes"
"""A file that repositories have. It is in the cache only if all files of the repository are."""

FileFinder: TypeAlias = Callable[[str], Path | None]
"""Takes the path of a file inside the checkpoint; returns its local path, or None if the checkpoint lacks the file."""


class FolderGoneError(OSError):
    """The local folder of a checkpoint does not exist any more."""


class FilesUnavailableError(OSError):
    """The hub does not answer, and the cache on this machine does not show whether a file exists."""


def file_finder(checkpoint: str, revision: str | None = None) -> FileFinder:
    """Return a function that finds files of a local folder or a hub name; it fetches files of the hub into the cache.

    The function raises `FilesUnavailableError` if it cannot find out whether the file exists.

    Raises:
        FolderGoneError: the folder does not exist.
    """
    folder = Path(checkpoint)
    if folder.is_absolute() and not folder.is_dir():  # no hub name is an absolute path
        raise FolderGoneError(f"the folder {checkpoint} does not exist, which the deployment was added from")
    return partial(_in_folder, folder) if folder.is_dir() else partial(_in_hub, checkpoint, revision)


def _in_folder(folder: Path, name: str) -> Path | None:
    file = folder / name
    file = Path(readable_path(str(file.parent))) / file.name  # a module's folder may have a name beyond ASCII
    return file if file.is_file() else None


def _in_hub(repo: str, revision: str | None, name: str) -> Path | None:
    try:
        from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise FilesUnavailableError(f"{repo}: huggingface_hub is not installed") from error
    if not _hub_answers():
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        whole = try_to_load_from_cache(repo, _OF_WHOLE_SNAPSHOTS, revision=revision)
        if cached is _CACHED_NO_EXIST or isinstance(whole, str):
            return None
        raise FilesUnavailableError(f"{repo}: {name} is not in the hub's cache here, and the hub does not answer")
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise FilesUnavailableError(f"{repo}: {name} cannot be fetched: {error}") from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # errors of the hub and of its transport have no common class
        raise FilesUnavailableError(f"{repo}: {name} cannot be fetched: {error}") from error


@cache
def _hub_answers() -> bool:
    """Return whether the hub can be reached.

    The check runs once, since the hub's client retries for 23 s if it cannot reach the hub.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_WAIT_S)
    except Exception:  # depends on the transport
        return False
    return True
