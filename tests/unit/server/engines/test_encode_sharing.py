# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.engines.encode` of decoders: texts that begin alike get the vectors that each gets by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.engines.base import LoadedEncoder, forward
from flagtriton_server.engines.encode import encode_pooled
from flagtriton_server.engines.pooling import Pooling, cls_pool, last_token_pool, mean_pool
from flagtriton_server.engines.pseudo_moe import use_domain
from flagtriton_server.loading import encoder as loading
from flagtriton_server.loading.encoder import load_encoder
from tests.support.steps.fake_backend import ids
from tests.unit.server.engines.torch_packed.test_architectures import DECODER, PACKED, TOLERANCE, VOCABULARY, save

CPU = torch.device("cpu")
LONGEST = 60

SHARING: dict[str, Callable[[], Any]] = {
    **{name: PACKED[name] for name in ("mistral without a window", "llama", "qwen2", "qwen3", "gemma")},
    "bert as a decoder": PACKED["bert as a decoder"],
    "gemma2 with a window": lambda: transformers.Gemma2Config(
        **DECODER, sliding_window=50, query_pre_attn_scalar=8, attn_logit_softcapping=0.5
    ),
    "mistral with a window": lambda: transformers.MistralConfig(**DECODER, sliding_window=50),
}
"""Decoders whose tokens see all before them, in texts of up to 50 tokens."""


def some_requests() -> list[NDArray[np.int32]]:
    """Return two requests: behind one prefix of 24 tokens and one of 18, alone, and without a token."""
    generator = np.random.default_rng(3)

    def tokens(count: int) -> list[int]:
        return generator.integers(0, VOCABULARY, count).tolist()

    first, second = tokens(24), tokens(18)
    return [
        ids([*first, *tokens(9)], tokens(11), [*second, *tokens(2)], [], [*first, *tokens(1)]),
        ids([*second, *tokens(30)], [*first, *tokens(9)], tokens(31), first),
    ]


REQUESTS = some_requests()
TOKENS = 33 + 11 + 20 + 25 + 48 + 33 + 31 + 24
SAVED = 3 * 23 + 18
"""Four texts begin alike, one of which is those 24 tokens alone and keeps the last; two more have 18 in common."""


def load(checkpoint: Path, max_length: int = LONGEST) -> LoadedEncoder:
    return load_encoder(EncoderSettings(str(checkpoint), max_length, token_budget=256, precision="fp32"), CPU)


def vectors(encoder: LoadedEncoder, token_budget: int = 256, pool: Pooling = last_token_pool) -> torch.Tensor:
    """Return `[B, D]` of all requests' texts."""
    return torch.cat(encode_pooled(encoder, REQUESTS, token_budget, pool))


@contextmanager
def tokens_computed(encoder: LoadedEncoder) -> Iterator[list[int]]:
    """Yield a list that gets the number of tokens of every forward pass."""
    counts: list[int] = []
    hook = encoder.module.register_forward_pre_hook(
        lambda _module, _args, named: counts.append(named["packed"].token_count), with_kwargs=True
    )
    with hook:
        yield counts


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedEncoder:
    return load(save(PACKED["llama"](), tmp_path_factory.mktemp("checkpoints") / "llama"))


@pytest.mark.parametrize("architecture", SHARING)
def test_texts_that_share_a_prefix_get_the_vectors_they_get_without_sharing(architecture: str, tmp_path: Path) -> None:
    encoder = load(save(SHARING[architecture](), tmp_path))
    alone = vectors(replace(encoder, max_shared_length=0))
    for token_budget in (40, 100, 256):
        with tokens_computed(encoder) as counts:
            together = vectors(encoder, token_budget)
        assert sum(counts) < TOKENS
        assert (together - alone).norm(dim=-1).max() < TOLERANCE * alone.norm(dim=-1).max()


def test_a_prefix_goes_through_the_model_once(llama: LoadedEncoder) -> None:
    with tokens_computed(llama) as counts:
        vectors(llama)
    assert counts == [TOKENS - SAVED]


def test_without_sharing_every_token_goes_through_the_model(llama: LoadedEncoder) -> None:
    with tokens_computed(llama) as counts:
        vectors(replace(llama, max_shared_length=0))
    assert counts == [TOKENS]


@pytest.mark.parametrize("pool", [mean_pool, cls_pool])
def test_a_pooling_that_reads_more_than_the_last_token_shares_nothing(llama: LoadedEncoder, pool: Pooling) -> None:
    with tokens_computed(llama) as counts:
        pooled = vectors(llama, pool=pool)
    assert counts == [TOKENS]
    assert torch.equal(pooled, vectors(replace(llama, max_shared_length=0), pool=pool))


def test_a_last_text_without_tokens_gets_nothing_of_a_prefix(llama: LoadedEncoder) -> None:
    (pooled,) = encode_pooled(llama, [ids([*range(20), 20], [*range(20), 21], [])], 256, last_token_pool)
    assert pooled.any(dim=1).tolist() == [True, True, False]


def test_texts_longer_than_may_share_are_computed_whole(llama: LoadedEncoder) -> None:
    # only those of 25 and of 24 tokens may
    with tokens_computed(llama) as counts:
        vectors(replace(llama, max_shared_length=32))
    assert counts == [TOKENS - 23]


@pytest.mark.parametrize(("window", "max_length", "within"), [(None, 40, 40), (30, 40, 30), (50, 40, 40), (17, 40, 17)])
def test_texts_share_up_to_the_deployments_length_or_the_window(
    window: int | None, max_length: int, within: int, tmp_path: Path
) -> None:
    config = transformers.MistralConfig(**DECODER, sliding_window=window)
    assert load(save(config, tmp_path), max_length).max_shared_length == within


@pytest.mark.parametrize(
    "architecture",
    ["mistral", "gemma2", "qwen2 with a window in some layers", "bert", "bert with relu", "xlm-roberta"],
)
def test_short_windows_and_encoders_share_nothing_and_need_no_trial_to_tell(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = load(save(PACKED[architecture](), tmp_path))
    assert (encoder.packed, encoder.max_shared_length) == (True, 0)
    assert not [record for record in caplog.records if record.name.startswith("flagtriton")]


def test_a_window_of_sixteen_tokens_leaves_nothing_to_share(tmp_path: Path) -> None:
    encoder = load(save(transformers.MistralConfig(**DECODER, sliding_window=16), tmp_path))
    assert (encoder.packed, encoder.max_shared_length) == (True, 0)


def test_a_window_of_seventeen_tokens_shares_sixteen(tmp_path: Path) -> None:
    encoder = load(save(transformers.MistralConfig(**DECODER, sliding_window=17), tmp_path))
    texts = ids([*range(16), 20], [*range(16), 21])
    with tokens_computed(encoder) as counts:
        (together,) = encode_pooled(encoder, [texts], 256, last_token_pool)
    assert counts == [18]
    (alone,) = encode_pooled(replace(encoder, max_shared_length=0), [texts], 256, last_token_pool)
    assert (together - alone).norm(dim=-1).max() < TOLERANCE * alone.norm(dim=-1).max()


def test_a_model_whose_shared_answers_differ_shares_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(PACKED["llama"](), tmp_path)
    verdicts = iter([True, False])  # packed answers agree, those behind a prefix do not
    monkeypatch.setattr(loading, "agree", lambda *_: next(verdicts))
    with caplog.at_level(logging.WARNING, logger="flagtriton_server.loading.encoder"):
        encoder = load(tmp_path)
    assert caplog.messages == [f"{tmp_path}: texts that share a prefix get other answers, so none do"]
    assert (encoder.packed, encoder.max_shared_length) == (True, 0)


def test_the_trial_finds_out_a_model_that_forgets_the_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(PACKED["llama"](), tmp_path)
    monkeypatch.setattr(
        "flagtriton_server.loading.packing_check.forward",
        lambda encoder, tokens, lengths, _=None: forward(encoder, tokens, lengths),
    )
    encoder = load(tmp_path)
    assert "texts that share a prefix get other answers" in caplog.text
    assert (encoder.packed, encoder.max_shared_length) == (True, 0)


def test_a_model_that_shares_is_loaded_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(save(PACKED["llama"](), tmp_path))
    assert not [record for record in caplog.records if record.name.startswith("flagtriton")]


def test_positions_behind_a_prefix_go_on_where_it_ends(llama: LoadedEncoder) -> None:
    seen: list[list[int]] = []
    hook = llama.module.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(named["position_ids"][0].tolist()), with_kwargs=True
    )
    with hook, torch.inference_mode():
        forward(llama, np.arange(8), np.array([3, 2, 1, 2]), np.array([-1, 0, 0, -1]))
    assert seen == [[0, 1, 2, 3, 4, 3, 0, 1] + [0] * 8]


def test_every_forward_pass_gets_the_encoders_further_arguments(llama: LoadedEncoder) -> None:
    seen: list[object] = []
    encoder = replace(llama, arguments={"domain": "law"})
    hook = llama.module.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(named.get("domain")), with_kwargs=True
    )
    with hook:
        vectors(encoder, token_budget=100)
    assert len(seen) > 1
    assert set(seen) == {"law"}


def test_a_packed_model_that_knows_no_domains_answers_as_ever(llama: LoadedEncoder) -> None:
    before = vectors(llama)
    with use_domain(llama, "law") as encoder:
        assert torch.equal(vectors(encoder), before)
