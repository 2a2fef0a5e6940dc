# SPDX-License-Identifier: Apache-2.0
"""Token ids of every published file layout, held to transformers 4.57.3's in `tests/golden/tokenizer_ids.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from flagtriton.checkpoints import EMBEDDERS, RERANKERS
from flagtriton.protocol.tensors import INPUT_IDS, NO_TOKEN
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer
from flagtriton_server.tokenizer_loading.classes import CLASSES
from flagtriton_server.tokenizer_loading.model_types import CLASS_OF_MODEL_TYPE
from flagtriton_server.tokenizer_loading.refusals import check_served
from tests.support.checkpoints.tokenizer_layouts import LAYOUTS, TEXTS
from tests.support.paths import GOLDEN

GOLDEN: dict[str, Any] = json.loads((GOLDEN / "tokenizer_ids.json").read_text(encoding="utf-8"))


def encoded(tokenizer: TextTokenizer, texts: list[str]) -> list[list[int]]:
    (answer,) = tokenizer.encode([TextBatch(texts, 512)])
    assert not isinstance(answer, RequestError)
    return [[token for token in row if token != NO_TOKEN] for row in answer[INPUT_IDS].tolist()]


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_are_those_of_transformers_4(name: str, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_checkpoint(str(LAYOUTS[name].make(tmp_path / name)), None, False)
    assert encoded(tokenizer, TEXTS) == GOLDEN["layouts"][name]["ids"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_without_special_tokens_are_those_of_transformers_4(name: str, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_checkpoint(str(LAYOUTS[name].make(tmp_path / name)), None, False)
    assert tokenizer.bare_ids(TEXTS) == GOLDEN["layouts"][name]["bare_ids"]


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.names])
def test_bare_ids_of_published_layouts_are_the_tokenizers_librarys_on_the_file(name: str, tmp_path: Path) -> None:
    folder = LAYOUTS[name].make(tmp_path / name)
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [encoding.ids for encoding in theirs.encode_batch(TEXTS, add_special_tokens=False)]
    assert TextTokenizer.from_checkpoint(str(folder), None, False).bare_ids(TEXTS) == expected


def test_every_name_of_both_model_tables_has_a_layout() -> None:
    named = [name for layout in LAYOUTS.values() for name in layout.names]
    assert sorted(named) == sorted([*EMBEDDERS, *RERANKERS])


@pytest.mark.parametrize("model_type", GOLDEN["classes"])
def test_the_class_of_each_model_type_is_that_of_transformers_4(model_type: str) -> None:
    expected = GOLDEN["classes"][model_type]
    name = CLASS_OF_MODEL_TYPE[model_type]
    assert name.removesuffix(" (Python)") == expected.removesuffix("Fast")
    if not expected.endswith("Fast"):
        with pytest.raises(ValueError, match="not served"):
            check_served("x", name, saved_by_5=False)


@pytest.mark.parametrize("name", sorted({*GOLDEN["classes"].values()} - {"PreTrainedTokenizerFast"}))
def test_every_class_of_transformers_4_has_a_row_or_is_refused(name: str) -> None:
    stem = name.removesuffix("Fast")
    if stem not in CLASSES:
        with pytest.raises(ValueError, match="not served"):
            check_served("x", stem, saved_by_5=False)


def test_the_golden_ids_are_of_these_layouts_and_texts() -> None:
    assert (GOLDEN["texts"], set(GOLDEN["layouts"])) == (TEXTS, set(LAYOUTS))
    assert GOLDEN["made_with"]["transformers"] == "4.57.3"
