# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.deploy.stub_paths`: what a shell reads as one word, checked by bash itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flagtriton_tools.deploy.stub_paths import (
    check_stub_words,
    hub_cache,
    is_one_word,
    plain_path,
    plain_temporary_folder,
)
from flagtriton_tools.errors import ToolError

ODD = ["my models", "it's", 'a"b', "a$HOME", "a;b", "a\nb", "a*", "a{b,c}", "é", "模型", "a\\b", "a#b&c", "~", "(x)"]
PLAIN = ["repo", "/a/b.c-d_e", "/a@1,2/+x%20:y=z"]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_path_is_reached_by_a_plain_link(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    link = plain_path(folder, tmp_path / "link")
    assert (link, link.resolve()) == (tmp_path / "link", folder)
    assert plain_path(folder, tmp_path / "link") == link  # of a server that is started again


@pytest.mark.parametrize("name", PLAIN)
def test_bash_reads_a_plain_path_as_it_is(name: str) -> None:
    assert is_one_word(name)
    read = subprocess.run(["bash", "-c", f"printf '<%s>' {name}"], capture_output=True, text=True, check=True)
    assert read.stdout == f"<{name}>"


def test_a_plain_path_needs_no_link(tmp_path: Path) -> None:
    assert plain_path(tmp_path, tmp_path / "link") == tmp_path
    assert not (tmp_path / "link").exists()


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plain_path(Path(), tmp_path / "link") == tmp_path


def test_a_temporary_folder_with_an_odd_name_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t m p").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t m p"))
    assert plain_temporary_folder() == Path("/tmp")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert plain_temporary_folder() == tmp_path


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        ("my model", "", "the model's name is 'my model'; expected letters"),
        ("model", "/opt/my env.tar.gz", "its EXECUTION_ENV_PATH is '/opt/my env.tar.gz'; expected letters"),
    ],
)
def test_what_no_link_can_replace_is_refused(tmp_path: Path, name: str, environment: str, said: str) -> None:
    (tmp_path / name).mkdir()
    parameter = f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{environment}" }} }}'
    (tmp_path / name / "config.pbtxt").write_text(f'backend: "python"\n{parameter if environment else ""}', "utf-8")
    with pytest.raises(ToolError, match=said):
        check_stub_words(tmp_path, [name])


def test_other_backends_names_and_an_environment_in_the_models_folder_are_fine(tmp_path: Path) -> None:
    for name, backend in {"my model": "onnxruntime", "model": "python"}.items():
        (tmp_path / name).mkdir()
        text = f'backend: "{backend}"\nparameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "VALUE" }} }}'
        text = text.replace("VALUE", "$$TRITON_MODEL_DIRECTORY/env.tar.gz")
        (tmp_path / name / "config.pbtxt").write_text(text, "utf-8")
    check_stub_words(tmp_path, ["my model", "model"])


def test_the_hub_cache_is_linked_only_where_its_name_is_not_ascii(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("flagtriton.protocol.runtime_files.TEMPORARY", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "jose"))
    assert hub_cache() == {}
    monkeypatch.setenv("HOME", str(tmp_path / "josé"))
    linked = hub_cache()
    assert list(linked) == ["HF_HOME"]
    assert linked["HF_HOME"].isascii()
    assert Path(linked["HF_HOME"]).resolve() == tmp_path / "josé" / ".cache" / "huggingface"
