# SPDX-License-Identifier: Apache-2.0
"""The steps against sentence-transformers 6 in this process: its older files and its own, packed and padded, fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.checkpoints.sentence_transformers import LEGACY_FLAGS, dense, make_sentence_transformer, resaved
from tests.support.checkpoints.tiny import TEXTS, make_bert, make_decoder, make_xlm_roberta
from tests.support.steps.chain import StepChain
from tests.support.steps.fake_backend import imported_steps

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

BOUND = 1e-5
LONG = " ".join(TEXTS[:5])
SENT = [*TEXTS, LONG, "ALL Capitals And ÄÖÜ ΑΣ"]
NORMALIZE = ("Normalize", {})
IDENTITY = "linear.Identity"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "tokenizer", "encoder", "pooler") as modules:
        yield modules


def cased_bert(folder: Path) -> Path:
    """Write a BERT whose tokenizer keeps capitals."""
    from transformers import BertTokenizer

    make_bert(folder)
    BertTokenizer.from_pretrained(folder, do_lower_case=False).save_pretrained(folder)
    return folder


def distilbert(folder: Path) -> Path:
    """Write a DistilBERT, whose texts are padded."""
    import torch
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    AutoTokenizer.from_pretrained(make_bert(folder.parent / "its-tokenizer")).save_pretrained(folder)
    torch.manual_seed(20)
    config = DistilBertConfig(vocab_size=400, dim=48, n_layers=2, n_heads=4, hidden_dim=96)
    DistilBertModel(config).save_pretrained(folder)
    return folder


def reference(folder: Path, texts: list[str], *, method: str = "encode", **options: Any) -> NDArray[np.float32]:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), device="cpu")
    vectors: NDArray[np.float32] = getattr(peer, method)(texts, **options)
    return vectors


def assert_close(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.float32
    assert np.abs(ours - theirs).max() <= BOUND * max(1.0, np.abs(theirs).max())  # raw vectors are no unit vectors


POOLINGS = [(name,) for name in LEGACY_FLAGS] + [("cls", "mean"), ("max", "mean_sqrt_len", "weightedmean")]


@pytest.mark.parametrize("pool_in_encoder", [False, True], ids=["pooler", "encoder"])
@pytest.mark.parametrize("pooling", POOLINGS, ids="+".join)
def test_every_pooling_and_several_joined(
    pooling: tuple[str, ...], pool_in_encoder: bool, steps: SimpleNamespace, tmp_path: Path
) -> None:
    folder = make_sentence_transformer(tmp_path / "older", make_xlm_roberta, pooling=pooling, behind=())
    chain = StepChain(steps, folder, pool_in_encoder=pool_in_encoder)
    assert_close(chain.encode(SENT), reference(folder, SENT))
    assert chain.parameters["hidden_size"] == str(48 * len(pooling))
    newer = StepChain(steps, resaved(folder, tmp_path / "newer"), pool_in_encoder=pool_in_encoder)
    assert_close(newer.encode(SENT), reference(folder, SENT))


CHAINS: dict[str, dict[str, Any]] = {
    "labse": {"pooling": ["cls"], "behind": [dense(48, 32), NORMALIZE]},
    "pickled": {"behind": [dense(48, 32), NORMALIZE], "pickled": True},
    "embeddinggemma": {"behind": [dense(48, 96, IDENTITY, bias=False), dense(96, 48, IDENTITY, bias=False), NORMALIZE]},
    "raw": {"behind": [dense(48, 64, "activation.GELU")]},
    "softmax": {"behind": [dense(48, 8, "activation.Softmax")]},
    "halved": {"behind": [dense(48, 64, "activation.GLU"), dense(32, 16), NORMALIZE]},
    "residual": {"behind": [dense(48, 48, use_residual=True), dense(48, 20, use_residual=True)]},
    "normalised between": {"behind": [NORMALIZE, dense(48, 16, "activation.SiLU")]},
    "dropout": {"behind": [("Dropout", {"dropout": 0.5}), dense(48, 8), NORMALIZE]},
    "joined": {"pooling": ["cls", "max"], "behind": [dense(96, 24), NORMALIZE]},
}


@pytest.mark.parametrize("pool_in_encoder", [False, True], ids=["pooler", "encoder"])
@pytest.mark.parametrize("chain", CHAINS)
def test_every_chain_behind_the_pooling(
    chain: str, pool_in_encoder: bool, steps: SimpleNamespace, tmp_path: Path
) -> None:
    folder = make_sentence_transformer(tmp_path / "older", make_bert, **CHAINS[chain])
    expected = reference(folder, SENT)
    for each in (folder, resaved(folder, tmp_path / "newer")):
        served = StepChain(steps, each, pool_in_encoder=pool_in_encoder)
        assert_close(served.encode(SENT), expected)
        assert served.parameters["hidden_size"] == str(expected.shape[1])


@pytest.mark.parametrize("pool_in_encoder", [False, True], ids=["pooler", "encoder"])
@pytest.mark.parametrize("behind", [[NORMALIZE], [dense(48, 32), NORMALIZE], []], ids=["normalised", "dense", "raw"])
def test_vectors_are_cut_behind_their_modules(
    behind: list[Any], pool_in_encoder: bool, steps: SimpleNamespace, tmp_path: Path
) -> None:
    folder = make_sentence_transformer(tmp_path / "m", make_bert, behind=behind, prompts={"truncate_dim": 16})
    expected = reference(folder, SENT)
    assert expected.shape == (len(SENT), 16)
    for each in (folder, resaved(folder, tmp_path / "newer")):
        served = StepChain(steps, each, pool_in_encoder=pool_in_encoder)
        assert_close(served.encode(SENT), expected)
        assert_close(served.encode(SENT, truncate_dim=20), reference(folder, SENT, truncate_dim=20))
        assert_close(served.encode(SENT, normalize=True), reference(folder, SENT, normalize_embeddings=True))


@pytest.mark.parametrize("pool_in_encoder", [False, True], ids=["pooler", "encoder"])
def test_padded_texts_too(pool_in_encoder: bool, steps: SimpleNamespace, tmp_path: Path) -> None:
    folder = make_sentence_transformer(tmp_path / "d", distilbert, pooling=["mean", "max"], behind=[dense(96, 12)])
    served = StepChain(steps, folder, pool_in_encoder=pool_in_encoder)
    assert served.parameters["attention"] == "padded"
    assert_close(served.encode(SENT), reference(folder, SENT))


def test_a_decoder_with_a_dense_layer_behind_its_last_token(steps: SimpleNamespace, tmp_path: Path) -> None:
    make = partial(make_decoder, family="qwen3")
    behind = [dense(48, 16, IDENTITY), NORMALIZE]
    folder = make_sentence_transformer(tmp_path / "q", make, pooling=["last_token"], behind=behind)
    served = StepChain(steps, folder, pool_in_encoder=True)
    assert_close(served.encode(SENT), reference(folder, SENT))


def bidirectional_gemma3(folder: Path) -> Path:
    """Write what EmbeddingGemma is: Gemma 3 whose tokens see each other in both directions."""
    import torch
    from transformers import Gemma3TextConfig, Gemma3TextModel

    make_decoder(folder, "gemma2")
    (folder / "model.safetensors").unlink()
    torch.manual_seed(20)
    config = Gemma3TextConfig(
        vocab_size=400,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        intermediate_size=96,
        max_position_embeddings=512,
        sliding_window=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        use_bidirectional_attention=True,
    )
    Gemma3TextModel(config).save_pretrained(folder)
    return folder


def test_embeddinggemma_whole(steps: SimpleNamespace, tmp_path: Path) -> None:
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    folder = make_sentence_transformer(
        tmp_path / "e",
        bidirectional_gemma3,
        behind=CHAINS["embeddinggemma"]["behind"],
        transformer={"max_seq_length": 64, "do_lower_case": False},
        prompts={"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    served = StepChain(steps, folder)
    assert_close(served.encode(SENT, input_type="query"), reference(folder, SENT, method="encode_query"))
    assert_close(served.encode(SENT, input_type="passage"), reference(folder, SENT, method="encode_document"))
    assert_close(served.encode(SENT), reference(folder, SENT))


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_texts_are_cut_where_sentence_transformers_cuts(name: str, steps: SimpleNamespace, tmp_path: Path) -> None:
    folder = make_sentence_transformer(tmp_path / "m", make_bert, transformer={"max_seq_length": 9})
    (folder / "sentence_bert_config.json").rename(folder / name)
    served = StepChain(steps, folder)
    answer = served.answer([LONG])
    assert answer["token_count"].tolist() == [[9]]
    assert_close(answer["dense_vecs"], reference(folder, [LONG]))
    assert served.answer([LONG], max_length=40)["token_count"].tolist() == [[40]]  # a request's own word counts


@pytest.mark.parametrize("make", [cased_bert, make_bert, make_xlm_roberta])
def test_texts_are_lower_cased_where_the_file_says_so(
    make: Callable[[Path], Path], steps: SimpleNamespace, tmp_path: Path
) -> None:
    folder = make_sentence_transformer(tmp_path / "l", make, transformer={"do_lower_case": True})
    texts = [*SENT, "A [SEP] IN </s> IT", "İSTANBUL ẞ Σ"]
    ours = StepChain(steps, folder)
    assert_close(ours.encode(texts), reference(folder, texts))
    as_they_are = StepChain(steps, folder, modules=False).encode(["AGAIN"])
    assert (np.abs(as_they_are - ours.encode(["AGAIN"])).max() > 1e-3) == (make is not make_bert)


PROMPTS = {"query": "query: ", "document": "passage: ", "sts": "compare this: ", "none": ""}


def prompted(folder: Path, make: Callable[[Path], Path] = make_bert, **more: Any) -> Path:
    config = {"prompts": PROMPTS, "default_prompt_name": None, **more.pop("config", {})}
    return make_sentence_transformer(folder, make, prompts=config, **more)


def test_prompts_by_their_names_and_as_instructions(steps: SimpleNamespace, tmp_path: Path) -> None:
    folder = prompted(tmp_path / "p")
    served = StepChain(steps, folder)
    for name in PROMPTS:
        assert_close(served.encode(SENT, prompt_name=name), reference(folder, SENT, prompt_name=name))
    assert_close(served.encode(SENT, input_type="query"), reference(folder, SENT, method="encode_query"))
    assert_close(served.encode(SENT, input_type="passage"), reference(folder, SENT, method="encode_document"))
    assert_close(served.encode(SENT), reference(folder, SENT))


def test_a_default_prompt_is_put_before_texts_that_come_with_none(steps: SimpleNamespace, tmp_path: Path) -> None:
    folder = prompted(tmp_path / "p", config={"default_prompt_name": "sts"})
    served = StepChain(steps, folder)
    assert_close(served.encode(SENT), reference(folder, SENT))
    assert_close(served.encode(SENT, prompt_name=""), reference(folder, SENT, prompt=""))
    assert_close(served.encode(SENT, input_type="query"), reference(folder, SENT, method="encode_query"))


WITHOUT_PROMPTS: list[tuple[str, ...]] = [(name,) for name in LEGACY_FLAGS] + [("cls", "weightedmean", "max")]


@pytest.mark.parametrize("pool_in_encoder", [False, True], ids=["pooler", "encoder"])
@pytest.mark.parametrize("pooling", WITHOUT_PROMPTS, ids="+".join)
@pytest.mark.parametrize("make", [make_bert, partial(make_decoder, family="llama", template="<s> $A")])
def test_a_prompts_tokens_are_not_pooled_where_the_file_says_so(
    pooling: tuple[str, ...],
    make: Callable[[Path], Path],
    pool_in_encoder: bool,
    steps: SimpleNamespace,
    tmp_path: Path,
) -> None:
    folder = prompted(tmp_path / "i", make, pooling=pooling, include_prompt=False, behind=())
    options = {"pool_in_encoder": pool_in_encoder, "task": "embed", "model_class": "encoder-only-base"}
    served = StepChain(steps, folder, **options)
    texts = [text for text in SENT if text]
    for name in PROMPTS:
        assert_close(served.encode(texts, prompt_name=name), reference(folder, texts, prompt_name=name))
    assert_close(served.encode(texts), reference(folder, texts))
    assert_close(served.encode(texts, input_type="query"), reference(folder, texts, method="encode_query"))


@pytest.mark.parametrize("length", [3, 4, 5, 8])
def test_a_prompt_that_is_cut_itself_leaves_what_sentence_transformers_leaves(
    length: int, steps: SimpleNamespace, tmp_path: Path
) -> None:
    transformer = {"max_seq_length": length}
    folder = prompted(tmp_path / "i", pooling=["mean", "cls"], include_prompt=False, transformer=transformer)
    served = StepChain(steps, folder)
    for name in PROMPTS:
        assert_close(served.encode(SENT, prompt_name=name), reference(folder, SENT, prompt_name=name))


def test_the_real_minilm_is_cut_at_its_256_tokens_unless_a_request_says(steps: SimpleNamespace, minilm: Path) -> None:
    from FlagEmbedding import FlagModel

    texts = [*SENT, " ".join([LONG] * 8)]
    served = StepChain(steps, minilm)
    assert served.answer(texts[-1:])["token_count"].tolist() == [[256]]
    assert_close(served.encode(texts), reference(minilm, texts))
    flag = FlagModel(str(minilm), pooling_method="mean", use_fp16=False, devices="cpu")
    assert_close(served.encode(texts, max_length=512), flag.encode(texts))
