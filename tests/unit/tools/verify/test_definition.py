# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.verify.run`: whether a checkpoint's files still say what a deployment serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagtriton.protocol.deployment import Deployment
from flagtriton_tools.deploy.build import describe
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.verify.checks import Check
from flagtriton_tools.verify.run import definition_checks
from tests.support.checkpoints.sentence_transformers import make_sentence_transformer, write
from tests.support.checkpoints.tiny import make_bert

TOLD = "config_sentence_transformers.json"
PROMPTS = {"query": "query: ", "sts": "compare: "}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    transformer = {"max_seq_length": 64, "do_lower_case": True}
    told = {"prompts": PROMPTS, "default_prompt_name": "sts"}
    return make_sentence_transformer(tmp_path / "m", make_bert, transformer=transformer, prompts=told)


def added(folder: Path, **options: Any) -> Deployment:
    return describe(inspect_checkpoint(str(folder)), AddOptions(**options))


def rows(deployment: Deployment, folder: Path) -> list[Check]:
    return list(definition_checks(deployment, str(folder), "tiny"))


def edit(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    write(file, content)


def test_files_as_they_were_are_equal(folder: Path) -> None:
    (row,) = rows(added(folder), folder)
    assert row.ok is True
    assert row.detail.startswith("lower-cased; 64 tokens; mean pooling; normalised; prompts query")


CHANGES: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "no Normalize": ("modules.json", lambda modules: modules.pop(), "mean pooling; not normalised"),
    "length": ("sentence_bert_config.json", lambda told: told.update(max_seq_length=32), "32 tokens"),
    "case": ("sentence_bert_config.json", lambda told: told.update(do_lower_case=False), "say: 64 tokens"),
    "default": (
        "config_sentence_transformers.json",
        lambda told: told.update(default_prompt_name="query"),
        "prompt query",
    ),
    "text": (
        "config_sentence_transformers.json",
        lambda told: told["prompts"].update(query="find: "),
        'query "find: "',
    ),
    "pooling": ("1_Pooling/config.json", lambda told: told.update(pooling_mode_cls_token=True), "cls+mean pooling"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_files_differ_in_the_words_of_a_load(change: str, folder: Path) -> None:
    deployment = added(folder)
    file, how, words = CHANGES[change]
    edit(folder / file, how)
    (row,) = rows(deployment, folder)
    assert row.ok is False
    said, _, served = row.detail.partition(". tiny was added as")
    assert words in said
    assert f"flagtriton add {folder} --name tiny --repository REPOSITORY --force" in served


def test_files_that_are_left_out_are_not_compared(folder: Path) -> None:
    (row,) = rows(added(folder, modules=False), folder)
    assert (row.ok, row.detail) == (None, "the deployment was added with --no-modules")


def test_without_such_files_there_is_nothing_to_compare(tmp_path: Path) -> None:
    plain = make_bert(tmp_path / "bert")
    assert rows(added(plain), plain) == []
