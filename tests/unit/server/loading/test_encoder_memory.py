# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.loading.encoder`: how much of a machine's memory a checkpoint takes while it is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3Model

MIB = 2**20
SHARD = 16_000_000
"""Bytes of the greatest file."""

NOISE = 8 * MIB
"""Bytes that threads, allocators and a trial with a few tokens may take beside the weights."""

MEASURED = """
import json, sys, threading, time
import torch
from flagtriton_server.loading.encoder import load_encoder
from flagtriton.protocol.settings import EncoderSettings

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

def load(checkpoint, precision):
    return load_encoder(EncoderSettings(checkpoint, 32, token_budget=64, precision=precision), torch.device("cpu"))

def watch(samples, stop):
    while not stop.wait(0.001):
        samples.append(anonymous())

def peak(checkpoint, precision):
    before, samples, stop = anonymous(), [], threading.Event()
    watcher = threading.Thread(target=watch, args=(samples, stop))
    watcher.start()
    encoder = load(checkpoint, precision)
    stop.set()
    watcher.join()
    return max([*samples, anonymous()]) - before

tiny, great = sys.argv[1:]
for precision in ("fp32", "bf16"):
    load(tiny, precision)  # whatever is made at a first time
torch.ones(64, 512) @ torch.ones(512, 2048)  # room that some processors' products of this width keep for good
print(json.dumps({precision: peak(great, precision) for precision in ("fp32", "bf16")}))
"""


def save(folder: Path, layers: int, width: int) -> int:
    """Write a checkpoint in float32, in files of 16 MB; return how many weights it has."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=1000,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        intermediate_size=4 * width,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    model = Qwen3Model(config)
    model.save_pretrained(folder, max_shard_size=SHARD)
    return sum(weight.numel() for weight in model.parameters())


@pytest.fixture(scope="module")
def great(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A checkpoint of 128 MB in nine files, and how many weights it has."""
    folder = tmp_path_factory.mktemp("checkpoints") / "great"
    return folder, save(folder, layers=8, width=512)


@pytest.fixture(scope="module")
def peaks(great: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Bytes of memory, without mapped files, that loading took at most, by precision."""
    tiny = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save(tiny, layers=1, width=32)
    command = [sys.executable, "-c", MEASURED, str(tiny), str(great[0])]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_these_checkpoints_weights_are_in_several_files(great: tuple[Path, int]) -> None:
    sizes = [file.stat().st_size for file in great[0].glob("*.safetensors")]
    assert len(sizes) == 9
    assert max(sizes) < 1.01 * SHARD
    assert sum(sizes) > 4 * great[1] > 7 * SHARD


def test_weights_that_change_their_dtype_are_in_memory_once_and_a_file_of_them_twice(
    great: tuple[Path, int], peaks: dict[str, int]
) -> None:
    weights = 2 * great[1]  # a bfloat16 is 2 bytes
    assert weights <= peaks["bf16"] <= weights + SHARD + NOISE


def test_weights_that_keep_their_dtype_stay_in_their_files(peaks: dict[str, int]) -> None:
    assert peaks["fp32"] <= NOISE
