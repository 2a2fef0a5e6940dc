# SPDX-License-Identifier: Apache-2.0
"""Decoder-only embedders against FlagEmbedding 1.4.2 in this process: every family, both padding sides, fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flagtriton import FlagAutoModel, FlagLLMModel
from flagtriton.protocol.examples import DEFAULT_SUFFIX
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.settings import EncoderSettings
from flagtriton.protocol.tensors import INPUT_IDS
from flagtriton_server.engines.encode import encode_pooled
from flagtriton_server.engines.pooling import pooling_named, to_embedding
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.tokenize.icl_queries import QueryBatch, encode_queries
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer
from tests.conftest import ICL_TOKENS, Served
from tests.support.checkpoints.tiny import TEXTS, make_decoder

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

BOUND = 1e-5
LENGTHS = [" ".join(TEXTS[i % 9] for i in range(n)) for n in (1, 3, 9, 27)]
EVERY = [*TEXTS, *LENGTHS, "</s> in the text", "x"]
FAMILIES = ["gemma2", "llama", "mistral", "qwen2", "qwen3"]
TEMPLATES = {"bos and eos": "<s> $A </s>", "eos alone": "$A </s>", "bos alone": "<s> $A"}

TASK = "find what answers this"
EXAMPLES = [{"query": "what is a fox", "response": "🙂 an animal"}, {"instruct": "Find it.", "query": "人工智能"}]

Embed = Callable[..., NDArray[np.float32]]


def reference(checkpoint: Path, **arguments: Any) -> Any:
    from FlagEmbedding import FlagLLMModel as Reference

    return Reference(str(checkpoint), use_fp16=False, devices="cpu", **arguments)


def served_in_process(checkpoint: Path, *, padded: bool = False, query_prefix: str | None = None) -> Embed:
    """Return the three steps in a chain without the server.

    Args:
        checkpoint: its folder.
        padded: as where a checkpoint brings its own code.
        query_prefix: texts are queries behind it, as `decoder-only-icl` has them; None is texts as they are.
    """
    tokenizer = TextTokenizer.from_checkpoint(str(checkpoint), None, False)
    settings = EncoderSettings(str(checkpoint), 512, 1024, precision="fp32", trust_remote_code=padded)
    encoder = load_encoder(settings, torch.device("cpu"))
    assert encoder.packed is not padded

    def embed(texts: list[str], max_length: int = 512) -> NDArray[np.float32]:
        if query_prefix is None:
            (answer,) = tokenizer.encode([TextBatch(texts, max_length)])
        else:
            queries = [f"<instruct>{TASK}\n<query>{text}" for text in texts]
            answer = encode_queries(tokenizer, QueryBatch(queries, query_prefix, DEFAULT_SUFFIX, max_length, 512))
        assert isinstance(answer, dict)
        (vectors,) = encode_pooled(encoder, [answer[INPUT_IDS]], 1024, pooling_named("last_token"))
        return to_embedding(vectors, EmbedOptions())

    return embed


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_vectors_are_the_references(family: str, padding_side: str, tmp_path: Path) -> None:
    checkpoint = make_decoder(tmp_path / family, family, padding_side=padding_side)
    expected = reference(checkpoint).encode(EVERY)
    for padded in (False, True):
        assert np.abs(served_in_process(checkpoint, padded=padded)(EVERY) - expected).max() <= BOUND


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_queries_behind_examples_are_the_references(
    family: str, padding_side: str, tmp_path: Path
) -> None:
    from FlagEmbedding import FlagICLModel as Reference

    checkpoint = make_decoder(tmp_path / family, family, padding_side=padding_side, added=ICL_TOKENS)
    theirs = Reference(
        str(checkpoint),
        use_fp16=False,
        devices="cpu",
        query_instruction_for_retrieval=TASK,
        examples_for_task=EXAMPLES,
    )
    for max_length in (30, 200):
        expected = theirs.encode_queries(EVERY, max_length=max_length)
        for padded in (False, True):
            embed = served_in_process(checkpoint, padded=padded, query_prefix=theirs.prefix)
            assert np.abs(embed(EVERY, max_length) - expected).max() <= BOUND


@pytest.mark.parametrize("max_length", [3, 17, 100])
@pytest.mark.parametrize("template", list(TEMPLATES.values()), ids=list(TEMPLATES))
def test_the_last_token_is_whatever_the_tokenizer_puts_last(template: str, max_length: int, tmp_path: Path) -> None:
    checkpoint = make_decoder(tmp_path / "qwen3", "qwen3", template=template)
    expected = reference(checkpoint).encode(EVERY, max_length=max_length)
    assert np.abs(served_in_process(checkpoint)(EVERY, max_length) - expected).max() <= BOUND


@pytest.mark.server
def test_texts_queries_and_passages_through_the_server_are_the_references(served: Served) -> None:
    arguments = {
        "query_instruction_for_retrieval": "find what answers this",
        "query_instruction_format": "<instruct>{}\\n<query>{}",
        "query_max_length": 40,
        "passage_max_length": 64,
    }
    theirs = reference(served.checkpoints["mistral"], **arguments)
    with FlagLLMModel("mistral", url=served.grpc_url, use_fp16=False, **arguments) as ours:
        for method in ("encode", "encode_queries", "encode_corpus"):
            mine, expected = getattr(ours, method)(EVERY), getattr(theirs, method)(EVERY)
            assert mine.shape == expected.shape
            assert np.abs(mine - expected).max() <= BOUND
        together = ours.encode(EVERY)
        alone = np.stack([ours.encode(text) for text in EVERY])
        assert np.abs(together - alone).max() <= 1e-6


@pytest.mark.server
def test_from_finetuned_finds_the_class_and_the_default_format(served: Served) -> None:
    theirs = reference(served.checkpoints["mistral"], query_instruction_for_retrieval="find")
    with FlagLLMModel("mistral", url=served.grpc_url, query_instruction_for_retrieval="find") as ours:
        assert ours.query_instruction_format == theirs.query_instruction_format == "Instruct: {}\nQuery: {}"
        assert np.abs(ours.encode_queries(EVERY) - theirs.encode_queries(EVERY)).max() <= BOUND
    with FlagAutoModel.from_finetuned("mistral", url=served.grpc_url) as found:
        assert type(found) is FlagLLMModel
