# SPDX-License-Identifier: Apache-2.0
"""The SDK against FlagEmbedding 1.4.2 in this process: same checkpoints, same texts, fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from flagtriton import FlagModel
from flagtriton.protocol.tensors import INPUT_IDS, NO_TOKEN, TEXT
from flagtriton.protocol.text import text_tensor
from tests.conftest import Served
from tests.support.checkpoints.tiny import TEXTS

pytestmark = [
    pytest.mark.server,
    pytest.mark.reference,
    # FlagEmbedding's own, and its dependencies':
    pytest.mark.filterwarnings("ignore"),
]

TINY = ["bert-cls", "modernbert-mean", "xlmr-mean", "xlmr-mean-in-encoder"]
BOUND = 1e-5

LENGTHS = [" ".join(TEXTS[i % 4] for i in range(n))[: n * 7 + 3] for n in (0, 1, 2, 5, 11, 23, 47, 95, 190, 380)]
"""From 3 characters to over 512 tokens."""

Pair = tuple[FlagModel, Any]
PairOf = Callable[..., Pair]


@pytest.fixture(scope="module")
def pair_of(served: Served) -> Iterator[PairOf]:
    """Return the SDK's FlagModel and FlagEmbedding's, constructed alike."""
    opened = []

    def make(name: str, **arguments: Any) -> Pair:
        from FlagEmbedding import FlagModel as Reference

        pooling = "cls" if name.endswith("cls") else "mean"
        reference = Reference(
            str(served.checkpoints[name]), use_fp16=False, devices="cpu", pooling_method=pooling, **arguments
        )
        ours = FlagModel(name, use_fp16=False, pooling_method=pooling, url=served.grpc_url, **arguments)
        opened.append(ours)
        return ours, reference

    yield make
    for ours in opened:
        ours.close()


def assert_close(ours: Any, reference: Any) -> None:
    assert ours.shape == reference.shape
    assert ours.dtype == reference.dtype == np.float32
    assert np.abs(ours - reference).max() <= BOUND


@pytest.mark.parametrize("max_length", [5, 512])
@pytest.mark.parametrize("name", [*TINY, "left-last", "all-MiniLM-L6-v2"])
def test_token_ids_are_the_reference_tokenizers(name: str, max_length: int, served: Served) -> None:
    from transformers import AutoTokenizer

    texts = [*TEXTS, *LENGTHS, "</s> [SEP] <mask> [MASK] specials in the text", "a\x00b", " leading space"]
    tokenizer = AutoTokenizer.from_pretrained(served.checkpoints[name])
    expected = tokenizer(texts, truncation=True, max_length=max_length)
    client = triton.InferenceServerClient(served.grpc_url.removeprefix("grpc://"))
    tensor = triton.InferInput(TEXT.name, [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(text_tensor(texts))
    rows = client.infer(f"{name}_tokenizer", [tensor], parameters={"max_length": max_length}).as_numpy(INPUT_IDS.name)
    client.close()
    assert [[int(i) for i in row if i != NO_TOKEN] for row in rows] == expected["input_ids"]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_of_all_lengths_are_the_references(name: str, normalize: bool, pair_of: PairOf) -> None:
    ours, reference = pair_of(name, normalize_embeddings=normalize)
    texts = [*TEXTS, *LENGTHS]
    assert_close(ours.encode(texts), reference.encode(texts))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("max_length", [2, 3, 7, 64, 511, 512])
def test_vectors_cut_at_any_length_are_the_references(name: str, max_length: int, pair_of: PairOf) -> None:
    ours, reference = pair_of(name)
    texts = [*TEXTS, *LENGTHS]
    assert_close(ours.encode(texts, max_length=max_length), reference.encode(texts, max_length=max_length))


@pytest.mark.parametrize("name", ["bert-cls", "xlmr-mean"])
def test_queries_bear_their_instruction_as_in_the_reference(name: str, pair_of: PairOf) -> None:
    ours, reference = pair_of(
        name,
        query_instruction_for_retrieval="find what answers this",
        query_instruction_format="Instruct: {}\\nQuery: {}",
        passage_instruction_for_retrieval="a passage: ",
        query_max_length=24,
        passage_max_length=40,
    )
    assert_close(ours.encode_queries(TEXTS), reference.encode_queries(TEXTS))
    assert_close(ours.encode_corpus(TEXTS), reference.encode_corpus(TEXTS))
    assert_close(ours.encode(TEXTS), reference.encode(TEXTS))


@pytest.mark.parametrize("truncate_dim", [1, 16, 48, 1000, -8])
def test_truncated_vectors_are_the_references(truncate_dim: int, pair_of: PairOf) -> None:
    ours, reference = pair_of("xlmr-mean", truncate_dim=truncate_dim)
    assert_close(ours.encode(TEXTS), reference.encode(TEXTS))


@pytest.mark.parametrize("count", [1, 2, 33, 257, 1000])
def test_batches_of_any_size_and_order_are_the_references(count: int, pair_of: PairOf) -> None:
    ours, reference = pair_of("bert-cls", batch_size=64)
    random = np.random.default_rng(count)
    words = " ".join(TEXTS).split()
    texts = [" ".join(random.choice(words, size=random.integers(1, 60))) for _ in range(count)]
    assert_close(ours.encode(texts), reference.encode(texts))


@pytest.mark.parametrize("text", ["a lone text", ""])
def test_a_lone_text_has_the_references_shape(text: str, pair_of: PairOf) -> None:
    ours, reference = pair_of("xlmr-mean")
    assert_close(ours.encode(text), reference.encode(text))


@pytest.mark.parametrize("name", [*TINY, "all-MiniLM-L6-v2"])
def test_a_text_alone_and_in_company_is_the_same(name: str, pair_of: PairOf) -> None:
    ours, _ = pair_of(name)
    texts = [*TEXTS, *LENGTHS]
    together = ours.encode(texts)
    alone = np.stack([ours.encode(text) for text in texts])
    assert np.abs(together - alone).max() <= 1e-6


def test_the_real_minilm_is_the_references(pair_of: PairOf) -> None:
    ours, reference = pair_of("all-MiniLM-L6-v2")
    texts = [*TEXTS, *LENGTHS]
    assert_close(ours.encode(texts), reference.encode(texts))
    assert_close(ours.encode(texts, max_length=30), reference.encode(texts, max_length=30))


def test_the_real_minilm_is_sentence_transformers_too(served: Served, pair_of: PairOf) -> None:
    from sentence_transformers import SentenceTransformer

    ours, _ = pair_of("all-MiniLM-L6-v2")
    peer = SentenceTransformer(str(served.checkpoints["all-MiniLM-L6-v2"]), device="cpu")
    # sentence-transformers cuts at the 256 tokens of sentence_bert_config.json.
    assert_close(ours.encode(LENGTHS, max_length=256), peer.encode(LENGTHS))


def test_the_default_precision_keeps_the_direction_of_every_vector(served: Served, pair_of: PairOf) -> None:
    _, reference = pair_of("all-MiniLM-L6-v2")
    texts = [*TEXTS, *LENGTHS]
    ours = FlagModel("minilm-auto", pooling_method="mean", url=served.grpc_url).encode(texts)
    cosines = (ours * reference.encode(texts)).sum(axis=1)
    assert cosines.min() >= 0.999


def test_last_token_pooling_is_transformers_own_last_token(served: Served) -> None:
    # FlagEmbedding's FlagModel has no last-token pooling, so the model is run here, one text at a time.
    import torch
    from transformers import AutoModel, AutoTokenizer

    checkpoint = served.checkpoints["left-last"]
    tokenizer, module = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint).eval()
    inputs = [tokenizer(text, truncation=True, max_length=20, return_tensors="pt") for text in [*TEXTS, *LENGTHS]]
    with torch.no_grad():
        expected = torch.cat([module(**one).last_hidden_state[:, -1] for one in inputs])
    ours = FlagModel("left-last", pooling_method="last_token", url=served.grpc_url, use_fp16=False)
    vectors = ours.encode([*TEXTS, *LENGTHS], max_length=20)
    assert_close(vectors, torch.nn.functional.normalize(expected).numpy())


def test_torch_tensors_come_back_where_asked_for(pair_of: PairOf) -> None:
    import torch

    ours, reference = pair_of("bert-cls", convert_to_numpy=False)
    mine, theirs = ours.encode(TEXTS), reference.encode(TEXTS)
    assert isinstance(mine, torch.Tensor)
    assert mine.dtype == theirs.dtype
    assert float((mine - theirs.cpu()).abs().max()) <= BOUND
