# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.checkpoint.lookup`, and tokenizers of the hub's cache where the hub does not answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.checkpoint import lookup
from flagtriton_server.checkpoint.lookup import FilesUnavailableError, FolderGoneError, file_finder
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from flagtriton_server.tokenizer_loading.files import TokenizerFiles
from tests.support.checkpoints.tiny import TEXTS, make_bert

REPO, COMMIT = "org/name", "0f3c"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a cache of the hub with one reference, and no snapshot yet; return the repository's folder in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(lookup, "_hub_answers", lambda: False)
    folder = tmp_path / "models--org--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return folder


@pytest.fixture
def snapshot(cache: Path) -> Path:
    return make_bert(cache / "snapshots" / COMMIT)


def test_a_cached_file_is_found(snapshot: Path) -> None:
    assert file_finder(REPO)("config.json") == snapshot / "config.json"
    assert file_finder(REPO, COMMIT)("config.json") == snapshot / "config.json"


def test_a_file_that_the_hub_has_said_it_lacks_is_none(cache: Path, snapshot: Path) -> None:
    marks = cache / ".no_exist" / COMMIT
    marks.mkdir(parents=True)
    (marks / "modules.json").touch()
    assert file_finder(REPO)("modules.json") is None


def test_a_file_that_a_whole_snapshot_lacks_is_none(snapshot: Path) -> None:
    (snapshot / ".gitattributes").touch()
    assert file_finder(REPO)("modules.json") is None


def test_a_file_of_which_the_cache_does_not_tell_is_not_said_to_be_missing(snapshot: Path) -> None:
    with pytest.raises(FilesUnavailableError, match=r"org/name: modules\.json is not in the hub's cache here"):
        file_finder(REPO)("modules.json")


def test_a_tokenizer_of_the_cache_is_that_of_the_folder(snapshot: Path) -> None:
    cached = TextTokenizer.from_checkpoint(REPO, None, False)
    assert cached.bare_ids(TEXTS) == TextTokenizer.from_checkpoint(str(snapshot), None, False).bare_ids(TEXTS)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_is_not_made_without_a_file_that_may_exist(snapshot: Path, name: str) -> None:
    (snapshot / name).unlink()
    with pytest.raises(FilesUnavailableError, match=rf"org/name: {name} is not in the hub's cache here"):
        TokenizerFiles.find(REPO, None)


def test_a_folder_that_has_gone_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(FolderGoneError, match="gone does not exist, which the deployment was added from"):
        TextTokenizer.from_checkpoint(str(gone), None, False)
    with pytest.raises(FolderGoneError, match="gone does not exist"):
        load_encoder(EncoderSettings(str(gone), 512, token_budget=64, precision="fp32"), torch.device("cpu"))


def test_a_folder_without_a_configuration_is_no_checkpoint(snapshot: Path) -> None:
    (snapshot / "config.json").unlink()
    with pytest.raises(OSError, match=r"has no config\.json, so it is no checkpoint"):
        TokenizerFiles.find(str(snapshot), None)


def test_a_repository_that_is_not_cached_is_not_there(cache: Path) -> None:
    shutil.rmtree(cache)
    with pytest.raises(FilesUnavailableError, match=r"org/name: config\.json is not in the hub's cache here"):
        TextTokenizer.from_checkpoint(REPO, None, False)
