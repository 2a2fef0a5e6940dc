# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.cli.class_choice`: an LLM embedder whose files allow two classes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.cli.class_choice import settle_class
from flagtriton_tools.cli.main import main
from flagtriton_tools.deploy.facts import CheckpointFacts, inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import entries
from tests.support.checkpoints.tiny import make_bert, make_decoder
from tests.support.folders import write_checkpoint, write_json

PLAIN, WITH_EXAMPLES = "decoder-only-base", "decoder-only-icl"
MISTRAL = {"model_type": "mistral", "architectures": ["MistralModel"], "hidden_size": 48}


def tuned(tmp_path: Path, **config: Any) -> Path:
    return write_checkpoint(tmp_path / "tuned", {**MISTRAL, **config})


def facts(folder: Path) -> CheckpointFacts:
    return inspect_checkpoint(str(folder))


def unasked(question: str, default: str) -> str:
    pytest.fail(f"asked: {question}")


def test_without_a_terminal_the_plain_class_is_taken_and_the_other_is_named(tmp_path: Path) -> None:
    options, told = settle_class(facts(tuned(tmp_path)), AddOptions(), None)
    assert options == AddOptions()
    assert told == (
        "tuned was taken for decoder-only-base; if it was trained with few-shot examples, as bge-en-icl was, add it "
        "again with --force --model-class decoder-only-icl"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", {"added_tokens": [{"id": 9, "content": "<response>"}], "model": {}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "<response>"}}}),
        ("added_tokens.json", {"<instruct>": 7, "<response>": 9}),
        ("special_tokens_map.json", {"additional_special_tokens": ["<response>"]}),
    ],
)
def test_a_token_for_responses_is_a_hint(file: str, content: dict[str, Any], tmp_path: Path) -> None:
    folder = tuned(tmp_path)
    write_json(folder / file, content)
    asked: list[str] = []

    def by_default(question: str, default: str) -> str:
        asked.append(default)
        return default

    _, told = settle_class(facts(folder), AddOptions(), None)
    assert told is not None
    assert "its tokenizer has <response>, so it may be trained with few-shot examples" in told
    options, told = settle_class(facts(folder), AddOptions(), by_default)
    assert (options.model_class, told, asked) == (WITH_EXAMPLES, None, [WITH_EXAMPLES])


def test_without_that_token_the_plain_class_is_the_default(tmp_path: Path) -> None:
    folder = tuned(tmp_path)
    write_json(folder / "tokenizer.json", {"model": {"vocab": {"<response>": 4}}, "added_tokens": []})
    options, _ = settle_class(facts(folder), AddOptions(), lambda question, default: default)
    assert options.model_class == PLAIN


def test_who_says_the_class_is_not_asked(tmp_path: Path) -> None:
    given = AddOptions(model_class=PLAIN)
    assert settle_class(facts(tuned(tmp_path)), given, unasked) == (given, None)


def test_a_published_checkpoint_is_not_asked_about(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "e5-mistral-7b-instruct", MISTRAL)
    assert settle_class(facts(folder), AddOptions(), unasked) == (AddOptions(), None)


def test_an_encoder_is_not_asked_about(tmp_path: Path) -> None:
    assert settle_class(facts(write_checkpoint(tmp_path / "tiny")), AddOptions(), unasked) == (AddOptions(), None)


@pytest.mark.parametrize(("task", "asks"), [("rerank", False), (None, False), ("embed", True)])
def test_a_causal_model_is_asked_about_once_it_is_an_embedder(task: str | None, asks: bool, tmp_path: Path) -> None:
    folder = tuned(tmp_path, architectures=["MistralForCausalLM"])
    _, told = settle_class(facts(folder), AddOptions(task=task), None)
    assert (told is not None) is asks


def test_add_says_what_it_took_in_a_script_and_nothing_of_encoders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = str(tmp_path / "repo")
    assert main(["add", str(make_decoder(tmp_path / "mine", "mistral")), "--repository", repository]) == 0
    assert "\nmine was taken for decoder-only-base; if it was trained" in capsys.readouterr().err
    assert main(["add", str(make_bert(tmp_path / "tiny")), "--repository", repository]) == 0
    assert "taken for" not in capsys.readouterr().err


def test_add_asks_at_a_terminal(tmp_path: Path) -> None:
    checkpoint, repository = make_decoder(tmp_path / "mine", "mistral"), tmp_path / "repo"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flagtriton_tools", "add", str(checkpoint), "--repository", str(repository)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while b"decoder-only-icl) [decoder-only-base]:" not in said:
            said += os.read(ours, 1024)  # ends with an error if the program does
        os.write(ours, f"{WITH_EXAMPLES}\n".encode())
        assert process.wait(timeout=60) == 0
    os.close(ours)
    assert b"mine is an LLM embedder. Was it trained with few-shot examples" in said.replace(b"\r\n", b" ")
    (entry,) = entries(repository)
    assert entry.deployment.model_class == WITH_EXAMPLES
