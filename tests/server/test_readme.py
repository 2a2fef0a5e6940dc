# SPDX-License-Identifier: Apache-2.0
"""The documentation's Python is run as it stands, and must print what its comments promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request

import pytest

from tests.conftest import Served
from tests.support.paths import ROOT

pytestmark = pytest.mark.server


def python_blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def output_of(source: str, served: Served) -> list[str]:
    """Return the lines that a block prints against the tests' own server, whose deployments have other names."""
    for written, here in {
        "grpc://localhost:8001": served.grpc_url,
        '"localhost:8001"': f'"{served.grpc_url.split("//")[1]}"',
        '"bge-m3': '"m3',
        '"bge-en-icl"': '"icl"',
        '"geevec-embeddings-1.0-lite"': '"domains"',
        '"bge-reranker-v2-m3"': '"reranker-xlmr"',
        '"bge-reranker-v2-gemma"': '"reranker-gemma"',
        '"bge-reranker-v2-minicpm-layerwise"': '"reranker-layerwise"',
        '"bge-reranker-v2.5-gemma2-lightweight"': '"reranker-lightweight"',
        "cutoff_layers=[8, 28]": "cutoff_layers=[4, 6]",  # the tests' rerankers have six layers
        "cutoff_layers=[28]": "cutoff_layers=[6]",
        '"8,28"': '"4,6"',
        "compress_layers=[8, 16]": "compress_layers=[2, 4]",
        '"e5-mistral-7b-instruct"': '"mistral"',
    }.items():
        source = source.replace(written, here)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_readmes_example_prints_what_its_comments_say(served: Served) -> None:
    [block] = python_blocks("README.md")
    promised = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert len(promised) == 2
    assert output_of(block, served) == promised


NUMBER = re.compile(r"(-?\d+\.\d+)…")
"""A number of which the documents show the first digits."""


def generate_examples(document: str) -> list[tuple[str, str, str]]:
    """Return a document's requests to `generate` whose replies it shows: the model, the body and the reply."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"^\$ curl \S+ localhost:8000/v2/models/(\S+)/generate -d '(.*)'\n(\{.*\})$", text, re.MULTILINE)


def assert_begins_like(reply: str, shown: str) -> None:
    """Check that a reply has the fields that a document shows, in that order, and the digits that it shows."""
    whole = json.loads(NUMBER.sub(r"\1", shown).replace(",…]", "]"))
    answered = json.loads(reply)
    assert list(answered) == list(whole)
    for name, value in whole.items():
        if isinstance(value, list):
            assert len(answered[name]) > len(value)
            assert answered[name][: len(value)] == pytest.approx(value, abs=0.01)  # digits are cut, not rounded
        elif isinstance(value, float):
            assert answered[name] == pytest.approx(value, abs=0.01)
        else:
            assert answered[name] == value


def test_the_readmes_request_to_generate_gets_the_reply_that_it_shows(served: Served) -> None:
    [(model, body, shown)] = generate_examples("README.md")
    request = urllib.request.Request(f"{served.http_url}/v2/models/{model}/generate", body.encode())
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert_begins_like(reply.read().decode(), shown)


def test_m3s_request_to_generate_gets_the_fields_that_its_page_shows(served: Served) -> None:
    [(model, body, shown)] = generate_examples("docs/bge-m3.md")
    request = urllib.request.Request(
        f"{served.http_url}/v2/models/{model.replace('bge-m3', 'm3')}/generate", body.encode()
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        answered = json.load(reply)
    assert list(answered) == list(json.loads(NUMBER.sub(r"\1", shown)))  # the numbers are the published checkpoint's


def test_m3s_example_for_the_sdk_runs(served: Served) -> None:
    lines = output_of(python_blocks("docs/bge-m3.md")[0], served)
    assert lines[0] == "(2, 48)"
    assert lines[1].startswith("{'")
    assert "True" in lines


def test_m3s_example_for_plain_tritonclient_runs(served: Served) -> None:
    fox, dog, scores = output_of(python_blocks("docs/bge-m3.md")[1], served)
    assert fox.startswith("the quick brown fox (48,) ")
    assert dog.startswith("a lazy dog (48,) ")
    assert len([float(score) for score in scores.strip("[]").split()]) == 2  # NumPy aligns them with more spaces


@pytest.mark.parametrize("block", [*python_blocks("docs/decoders.md"), *python_blocks("docs/rerankers.md")])
def test_the_decoders_and_rerankers_examples_print_what_their_comments_say(served: Served, block: str) -> None:
    promised = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    assert promised
    assert output_of(block, served) == promised


def test_the_hybrid_search_in_qdrants_local_mode_runs(served: Served) -> None:
    pytest.importorskip("qdrant_client")
    question, *found = output_of(python_blocks("docs/integrations.md")[0], served)
    assert question == "Which model gives sparse and dense vectors?"
    assert [line[:3] for line in found] == ["1. ", "2. ", "3. "]
