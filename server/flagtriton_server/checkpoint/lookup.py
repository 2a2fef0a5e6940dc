# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint's small files are: in its local folder, or in the hub. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

from flagtriton.protocol.runtime_files import readable_path

__all__ = ["FileFinder", "FilesUnavailableError", "FolderGoneError", "file_finder"]

_WAIT_S = 3.0
_OF_WHOLE_SNAPSHOTS = ".gitattributes"
"""A file that repositories have, and that is cached only where all of their files are."""

FileFinder: TypeAlias = Callable[[str], Path | None]
"""Takes a file's path inside the checkpoint; returns where it lies here, or None if the checkpoint lacks it."""


class FolderGoneError(OSError):
    """A checkpoint's local folder is not there any more."""


class FilesUnavailableError(OSError):
    """The hub cannot be asked, and its cache on this machine does not tell."""


def file_finder(checkpoint: str, revision: str | None = None) -> FileFinder:
    """Return what finds files of a local folder or a hub name; a hub's file is fetched into the cache.

    The finder raises `FilesUnavailableError` where nothing tells whether the file exists.

    Raises:
        FolderGoneError: the folder does not exist.
    """
    folder = Path(checkpoint)
    if folder.is_absolute() and not folder.is_dir():  # no name of the hub's begins so
        raise FolderGoneError(f"the folder {checkpoint} does not exist, which the deployment was added from")
    return partial(_in_folder, folder) if folder.is_dir() else partial(_in_hub, checkpoint, revision)


def _in_folder(folder: Path, name: str) -> Path | None:
    file = folder / name
    file = Path(readable_path(str(file.parent))) / file.name  # a module's folder may have letters beyond ASCII
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
    except Exception as error:  # the hub's errors, and those of its transport, have no class in common
        raise FilesUnavailableError(f"{repo}: {name} cannot be fetched: {error}") from error


@cache
def _hub_answers() -> bool:
    """Return whether the hub can be reached: asked once, as its own client tries again for 23 s where it cannot."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_WAIT_S)
    except Exception:  # of whichever transport it has
        return False
    return True
