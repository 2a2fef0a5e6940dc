# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.engines.torch_packed.attention`: texts go with a module whose layers are on several devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import send_to_device

from flagtriton_server.engines.encode import encode_pooled
from flagtriton_server.engines.pooling import last_token_pool
from flagtriton_server.engines.torch_packed.attention import PackedTexts
from tests.support.steps.fake_backend import ids
from tests.unit.server.engines.torch_packed.test_architectures import PACKED, load, save

CPU = torch.device("cpu")
META = torch.device("meta")

LENGTHS = np.array([3, 2, 1])
PARENTS = np.array([-1, 0, 0])


@pytest.mark.parametrize("device", ["cpu", CPU])
def test_texts_that_are_there_already_are_the_same(device: torch.device | str) -> None:
    texts = PackedTexts(LENGTHS, CPU)
    assert texts.to(device) is texts


def test_texts_on_another_device_are_those_texts_there() -> None:
    elsewhere = PackedTexts(LENGTHS, CPU, PARENTS).to(META)
    assert elsewhere.device == META
    assert elsewhere.lengths is LENGTHS
    assert elsewhere.parents is PARENTS
    assert elsewhere.cumulated.device == META


def test_all_layers_on_a_device_get_the_same_texts_so_that_they_share_what_those_compute() -> None:
    texts = PackedTexts(LENGTHS, CPU)
    assert texts.to("meta") is texts.to(META)
    assert texts.to("meta").groups is texts.to(META).groups


def test_a_number_is_that_gpu() -> None:
    assert PackedTexts(LENGTHS, CPU).to(1).device == torch.device("cuda", 1)


def test_texts_take_what_a_tensor_takes_when_it_is_moved() -> None:
    texts = PackedTexts(LENGTHS, CPU)
    assert texts.to("meta", non_blocking=True) is texts.to(META)


def test_accelerate_moves_texts_as_it_moves_tensors() -> None:
    texts = PackedTexts(LENGTHS, CPU)
    assert send_to_device({"packed": texts}, META)["packed"] is texts.to(META)


@pytest.mark.parametrize("architecture", ["mistral", "mistral without a window"])
def test_a_model_whose_layers_are_moved_to_answers_as_before(architecture: str, tmp_path: Path) -> None:
    encoder = load(save(PACKED[architecture](), tmp_path))
    texts = [ids([*range(20), *range(own, own + 9)]) for own in (30, 40, 50)] + [ids([7], [8, 9, 10])]
    before = encode_pooled(encoder, texts, 256, last_token_pool)
    for layer in encoder.module.layers:
        add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    assert all(hasattr(layer, "_hf_hook") for layer in encoder.module.layers)
    after = encode_pooled(encoder, texts, 256, last_token_pool)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
