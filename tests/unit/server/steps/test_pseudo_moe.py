# SPDX-License-Identifier: Apache-2.0
"""The encoder step of a pseudo-MoE model, whose code comes with its checkpoint: each request in its own domain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen3Config, Qwen3Model

from flagtriton.protocol.settings import EncoderSettings, PoolerSettings
from flagtriton_server.loading.encoder import load_encoder
from tests.support.steps.fake_backend import Request, TritonError, answered, ids, imported_steps, responses_of, started

HIDDEN_SIZE = 16
TEXTS = ids([5, 6, 7], [8, 9])
SCALES = {None: 1.0, "law": 2.0, "code": 3.0}
"""What the model multiplies its hidden states by: these numbers, and 1 without a domain."""

MODEL_CODE = """
from transformers import Qwen3Config, Qwen3Model

class ScaledConfig(Qwen3Config):
    model_type = "scaled"

class ScaledModel(Qwen3Model):
    config_class = ScaledConfig

    def __init__(self, config):
        super().__init__(config)
        self.domain = None

    def set_domain(self, domain):
        self.domain = domain
        if domain not in ("law", "code"):
            raise ValueError(f"no domain {domain}")

    def forward(self, input_ids=None, attention_mask=None, domain=None, **named):
        answers = super().forward(input_ids=input_ids, attention_mask=attention_mask, **named)
        if domain != self.domain:
            raise RuntimeError("set_domain and forward were told different things")
        answers.last_hidden_state = answers.last_hidden_state * {None: 1.0, "law": 2.0, "code": 3.0}[domain]
        return answers
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 whose own code, beside its weights, has domains."""
    folder = tmp_path_factory.mktemp("checkpoints") / "scaled"
    torch.manual_seed(3)
    config = Qwen3Config(
        vocab_size=20,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=24,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    Qwen3Model(config).save_pretrained(folder)
    (folder / "modeling_scaled.py").write_text(MODEL_CODE, encoding="utf-8")
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written["model_type"] = "scaled"
    written["auto_map"] = {"AutoConfig": "modeling_scaled.ScaledConfig", "AutoModel": "modeling_scaled.ScaledModel"}
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def own_code_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep transformers' copy of the model's code out of the user's cache."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "encoder", "pooler") as modules:
        yield modules


def settings(checkpoint: Path, **more: Any) -> EncoderSettings:
    given = {"precision": "fp32", "pooling_method": "last_token", "pseudo_moe": True, **more}
    return EncoderSettings(str(checkpoint), 64, token_budget=64, trust_remote_code=True, **given)


def asked(domain: str | None, texts: NDArray[np.int32] = TEXTS) -> Request:
    """Return a request for raw vectors, whose size tells the domain."""
    options = {"normalize": False, **({} if domain is None else {"domain": domain})}
    return Request({"input_ids": texts}, json.dumps(options))


def scales(answers: list[dict[str, NDArray[Any]]], plain: NDArray[np.float32]) -> list[float]:
    """Return what each answer's `[B, D]` vectors are multiples of `plain`'s by."""
    ratios = [answer["dense_vecs"] / plain for answer in answers]
    assert all(np.ptp(ratio) < 1e-3 for ratio in ratios)
    return [round(float(ratio.mean()), 3) for ratio in ratios]


def test_a_checkpoints_own_code_is_what_answers(checkpoint: Path) -> None:
    encoder = load_encoder(settings(checkpoint), torch.device("cpu"))
    assert type(encoder.module).__name__ == "ScaledModel"
    assert not encoder.packed


def test_requests_of_one_batch_get_the_domain_that_each_asked_for(steps: SimpleNamespace, checkpoint: Path) -> None:
    step = started(steps.encoder, settings(checkpoint))
    (plain,) = answered(step, asked(None))
    domains = ["law", None, "code", "law", "code", None]
    answers = answered(step, *map(asked, domains))
    assert scales(answers, plain["dense_vecs"]) == [SCALES[domain] for domain in domains]


def test_requests_of_one_batch_get_the_answers_that_they_get_alone(steps: SimpleNamespace, checkpoint: Path) -> None:
    step = started(steps.encoder, settings(checkpoint))
    requests = [asked("law", ids([5, 6, 7])), asked("code", ids([8], [9, 10])), asked(None, ids([4, 4]))]
    for together, request in zip(answered(step, *requests), requests, strict=True):
        (alone,) = answered(step, request)
        np.testing.assert_allclose(together["dense_vecs"], alone["dense_vecs"], rtol=0, atol=1e-6)


def test_a_domain_that_the_model_refuses_fails_those_requests_alone(steps: SimpleNamespace, checkpoint: Path) -> None:
    step = started(steps.encoder, settings(checkpoint))
    (plain,) = answered(step, asked(None))
    first, refused, last, also_refused = responses_of(step, *map(asked, ["law", "cooking", None, "cooking"]))
    for response in (refused, also_refused):
        message, code = response.error.args
        assert message.startswith("option 'domain' is 'cooking', which this model refuses: ValueError(")
        assert code == TritonError.INVALID_ARG
    assert scales([first.tensors, last.tensors], plain["dense_vecs"]) == [2.0, 1.0]


def test_a_refused_domain_is_forgotten_by_the_next_batch(steps: SimpleNamespace, checkpoint: Path) -> None:
    step = started(steps.encoder, settings(checkpoint))
    (before,) = answered(step, asked(None))
    (refused,) = responses_of(step, asked("cooking"))
    assert refused.error is not None
    (after,) = answered(step, asked(None))
    np.testing.assert_array_equal(after["dense_vecs"], before["dense_vecs"])


def test_hidden_states_for_the_pooler_are_of_the_domain_too(steps: SimpleNamespace, checkpoint: Path) -> None:
    encoder = started(steps.encoder, settings(checkpoint, pooling_method=None, rows="last"))
    pooler = started(steps.pooler, PoolerSettings("last_token", "fp32", rows="last", pseudo_moe=True))
    vectors = []
    for domain in (None, "law"):
        (states,) = answered(encoder, asked(domain))
        both = {"input_ids": TEXTS, "hidden_states": states["hidden_states"]}
        (answer,) = answered(pooler, Request(both, asked(domain).options))
        vectors.append(answer["dense_vecs"])
    np.testing.assert_allclose(vectors[1], 2 * vectors[0], rtol=1e-5)


def test_an_encoder_of_another_class_does_not_read_the_options(steps: SimpleNamespace, checkpoint: Path) -> None:
    step = started(steps.encoder, settings(checkpoint, pooling_method=None, rows="last", pseudo_moe=False))
    plain, told = answered(step, asked(None), asked("law"))
    np.testing.assert_array_equal(plain["hidden_states"], told["hidden_states"])


def test_an_encoder_that_pools_makes_infinities_finite_where_the_class_does(
    steps: SimpleNamespace, checkpoint: Path
) -> None:
    step = started(steps.encoder, settings(checkpoint, pseudo_moe=True))
    step._encoder.module.norm.weight.data[3] = torch.inf
    (answer,) = answered(step, asked(None))
    assert np.abs(answer["dense_vecs"][:, 3]).tolist() == [10_000.0, 10_000.0]


def test_an_encoder_of_another_class_refuses_to_send_infinities(steps: SimpleNamespace, checkpoint: Path) -> None:
    step = started(steps.encoder, settings(checkpoint, pseudo_moe=False))
    step._encoder.module.norm.weight.data[3] = torch.inf
    (response,) = responses_of(step, asked(None))
    assert "components of vectors are not finite in fp32" in str(response.error)


NO_NUMBERS = np.array([[[np.nan, np.inf]]], dtype=np.float32).view(np.uint8)


def test_a_pooler_makes_infinities_finite_where_the_class_does(steps: SimpleNamespace) -> None:
    pooler = started(steps.pooler, PoolerSettings("last_token", "fp32", rows="last", pseudo_moe=True))
    request = Request({"input_ids": ids([5]), "hidden_states": NO_NUMBERS}, '{"normalize": false}')
    (answer,) = answered(pooler, request)
    np.testing.assert_array_equal(answer["dense_vecs"], [[0.0, 10_000.0]])


def test_a_pooler_of_another_class_refuses_to_send_infinities(steps: SimpleNamespace) -> None:
    pooler = started(steps.pooler, PoolerSettings("last_token", "fp32", rows="last", pseudo_moe=False))
    request = Request({"input_ids": ids([5]), "hidden_states": NO_NUMBERS}, '{"normalize": false}')
    (response,) = responses_of(pooler, request)
    assert "components of vectors are not finite in fp32" in str(response.error)
