# SPDX-License-Identifier: Apache-2.0
"""Pseudo-MoE embedders against FlagEmbedding 1.4.2 in this process: a model with code of its own, and a plain one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flagtriton import FlagAutoModel, FlagPseudoMoEModel, InvalidRequestError
from tests.conftest import Served
from tests.support.checkpoints.domain_model import DOMAINS
from tests.support.checkpoints.tiny import TEXTS

pytestmark = [pytest.mark.server, pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

BOUND = 1e-5
FP32 = {"use_fp16": False, "use_bf16": False}


def reference(checkpoint: Path, **arguments: Any) -> Any:
    from FlagEmbedding import FlagPseudoMoEModel as Reference

    return Reference(str(checkpoint), devices="cpu", **FP32, **arguments)


@pytest.fixture(scope="module")
def ours(served: Served) -> Iterator[FlagPseudoMoEModel]:
    with FlagPseudoMoEModel("domains", url=served.grpc_url, **FP32) as model:
        yield model


@pytest.fixture(scope="module")
def theirs(served: Served) -> Any:
    return reference(served.checkpoints["domains"])


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domains_vectors_are_the_references(ours: FlagPseudoMoEModel, theirs: Any, domain: str) -> None:
    for method in ("encode", "encode_queries", "encode_corpus"):
        mine = getattr(ours, method)(TEXTS, domain_for_pseudo_moe=domain)
        expected = getattr(theirs, method)(TEXTS, domain_for_pseudo_moe=domain)
        assert np.abs(mine - expected).max() <= BOUND
        assert np.array_equal(mine, getattr(ours, method)(TEXTS, domain=domain))


def test_the_constructors_domain_and_instruction_are_the_references(served: Served) -> None:
    arguments = {"domain_for_pseudo_moe": "coding", "query_instruction_for_retrieval": "find the function"}
    expected = reference(served.checkpoints["domains"], **arguments).encode_queries(TEXTS)
    with FlagPseudoMoEModel("domains", url=served.grpc_url, **FP32, **arguments) as model:
        assert np.abs(model.encode_queries(TEXTS) - expected).max() <= BOUND


def test_domains_differ_and_none_is_the_models_own_choice_whatever_came_before(ours: FlagPseudoMoEModel) -> None:
    general, coding, reasoning = (ours.encode(TEXTS, domain=domain) for domain in DOMAINS)
    assert min(np.abs(a - b).max() for a, b in [(general, coding), (general, reasoning), (coding, reasoning)]) > 0.1
    assert np.array_equal(ours.encode(TEXTS), general)


def test_callers_with_different_domains_at_once_get_their_own(ours: FlagPseudoMoEModel) -> None:
    alone = {domain: ours.encode(TEXTS, domain=domain) for domain in DOMAINS}
    wanted = [DOMAINS[i % len(DOMAINS)] for i in range(24)]
    with ThreadPoolExecutor(12) as callers:
        answers = list(callers.map(lambda domain: ours.encode(TEXTS, domain=domain), wanted))
    for domain, answer in zip(wanted, answers, strict=True):
        assert np.abs(answer - alone[domain]).max() <= 1e-6


def test_a_domain_that_the_model_lacks_is_named(ours: FlagPseudoMoEModel) -> None:
    with pytest.raises(InvalidRequestError, match=r"option 'domain' is 'cooking', which this model refuses.*no domain"):
        ours.encode("x", domain="cooking")


def test_both_names_of_the_domain_at_once_are_a_type_error(ours: FlagPseudoMoEModel, theirs: Any) -> None:
    for model in (ours, theirs):
        with pytest.raises(TypeError):
            model.encode("x", domain_for_pseudo_moe="coding", domain="coding")


def test_from_finetuned_finds_the_class(served: Served) -> None:
    with FlagAutoModel.from_finetuned("domains", url=served.grpc_url) as found:
        assert type(found) is FlagPseudoMoEModel
