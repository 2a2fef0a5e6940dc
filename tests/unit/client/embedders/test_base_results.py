# SPDX-License-Identifier: Apache-2.0
"""The form of an answer, and the arguments that every method takes beside its named ones."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from flagtriton import MissingExtraError
from tests.support.fake_models import DIMENSION, METHODS, embedder, fake_server, vector


@pytest.mark.parametrize("method", METHODS)
def test_torch_tensors_can_be_asked_for(method: str) -> None:
    torch = pytest.importorskip("torch")
    vectors = getattr(embedder(fake_server()), method)(["ab"], convert_to_numpy=False)
    assert isinstance(vectors, torch.Tensor)
    assert vectors.tolist() == [[2, 97, 98, 195]]


def test_a_str_gives_a_torch_tensor_of_one_dimension() -> None:
    pytest.importorskip("torch")
    assert embedder(fake_server(), convert_to_numpy=False).encode("ab").shape == (DIMENSION,)


def test_the_calls_convert_to_numpy_goes_before_the_objects() -> None:
    model = embedder(fake_server(), convert_to_numpy=False)
    assert isinstance(model.encode("a", convert_to_numpy=True), np.ndarray)


def test_torch_tensors_without_torch_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="pip install torch"):
        embedder(fake_server()).encode("a", convert_to_numpy=False)


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_shown_when_the_call_wishes(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(embedder(fake_server(max_batch_size=1)), method)(["a", "bb"], show_progress=True)
    assert "2/2" in capsys.readouterr().err


def test_progress_is_shown_when_the_object_wishes(capsys: pytest.CaptureFixture[str]) -> None:
    embedder(fake_server(max_batch_size=1), show_progress=True).encode(["a", "bb"])
    assert "2/2" in capsys.readouterr().err


def test_progress_is_not_shown_when_the_call_does_not_wish(capsys: pytest.CaptureFixture[str]) -> None:
    embedder(fake_server(max_batch_size=1), show_progress=True).encode(["a", "bb"], show_progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["show_progress_bar", "foo"])
def test_an_unknown_argument_of_a_call_is_refused(method: str, name: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        getattr(embedder(fake_server()), method)("a", **{name: True})


def test_padding_to_a_multiple_is_accepted_and_changes_nothing() -> None:
    assert embedder(fake_server()).encode("ab", pad_to_multiple_of=8).tolist() == vector("ab")
