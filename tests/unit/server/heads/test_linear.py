# SPDX-License-Identifier: Apache-2.0
"""`heads.linear`: BGE-M3's linear layers from files of their own, read as tensors and nothing else."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file

from flagtriton.protocol.settings import HeadSettings
from flagtriton_server.checkpoint import lookup
from flagtriton_server.engines.base import Precision
from flagtriton_server.heads.linear import Head, load_head, load_sparse_head
from tests.support.folders import write_json

FP32 = Precision("fp32", torch.float32, torch.float32)
FP16_ON_A_PROCESSOR = Precision("fp16", torch.float16, torch.float32)
BF16 = Precision("bf16", torch.bfloat16, torch.bfloat16)

THREE_ROWS = {"weight": torch.tensor([[1.0, 2], [3, 4], [0, -1]]), "bias": torch.tensor([10.0, 20, 30])}
ONE_ROW = {"weight": torch.tensor([[1.0, 2]]), "bias": torch.tensor([10.0])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a checkpoint of hidden size 2, without a head."""
    write_json(tmp_path / "m3" / "config.json", {"hidden_size": 2})
    return tmp_path / "m3"


def load(checkpoint: Path | str, out: int | None = None, precision: Precision = FP32, **settings: Any) -> Head:
    return load_head(HeadSettings(str(checkpoint), **settings), "head", out, precision, torch.device("cpu"))


def through(head: Head, *states: list[float]) -> list[list[float]]:
    return head(torch.tensor(states)).tolist()


def refused(folder: Path, out: int | None = None) -> str:
    with pytest.raises(ValueError, match=str(folder)) as raised:
        load(folder, out)
    return str(raised.value).replace(f"{folder}/", "")


def test_a_head_is_a_product_and_a_bias(folder: Path) -> None:
    torch.save(THREE_ROWS, folder / "head.pt")
    # 1*1 + 2*1 + 10, 3*1 + 4*1 + 20, -1*1 + 30; 1*2 + 10, 3*2 + 20, 30
    assert through(load(folder), [1, 1], [2, 0]) == [[13, 27, 29], [12, 26, 30]]


def test_a_head_of_safetensors_is_the_same(folder: Path) -> None:
    save_file(THREE_ROWS, folder / "head.safetensors")
    assert through(load(folder), [1, 1], [2, 0]) == [[13, 27, 29], [12, 26, 30]]


def test_safetensors_come_before_a_pickle(folder: Path) -> None:
    save_file(THREE_ROWS, folder / "head.safetensors")
    (folder / "head.pt").write_bytes(b"never read")
    assert through(load(folder), [1, 1]) == [[13, 27, 29]]


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 256, 257, 600])
def test_every_row_comes_out_however_many_there_are(folder: Path, rows: int) -> None:
    # Rows go through in blocks of 256, filled up to a multiple of 16.
    torch.save(ONE_ROW, folder / "head.pt")
    states = torch.stack([torch.arange(rows), torch.zeros(rows)], dim=1)
    assert load(folder)(states).tolist() == [[10.0 + row] for row in range(rows)]


def test_no_rows_give_no_rows(folder: Path) -> None:
    torch.save(THREE_ROWS, folder / "head.pt")
    assert load(folder)(torch.zeros(0, 2)).shape == (0, 3)


def test_states_are_taken_in_the_heads_own_dtype(folder: Path) -> None:
    torch.save(ONE_ROW, folder / "head.pt")
    out = load(folder)(torch.tensor([[1, 1]], dtype=torch.bfloat16))
    assert (out.dtype, out.tolist()) == (torch.float32, [[13.0]])


def test_weight_and_bias_are_rounded_as_the_encoders_weights_are_and_then_computed_with(folder: Path) -> None:
    # Beside 1, fp16's next number is 1 + 2**-10, so 2**-12 is lost; 1 + 2**-10 stays, and 1024 times it is 1025,
    # which is exact in float32. Beside 2048, fp16's next is 2050, and 2049 goes to the even one of both.
    torch.save({"weight": torch.tensor([[1 + 2**-12, 1 + 2**-10]]), "bias": torch.tensor([2049.0])}, folder / "head.pt")
    head = load(folder, 1, FP16_ON_A_PROCESSOR)
    assert through(head, [4096, 0], [0, 1024]) == [[4096 + 2048], [1025 + 2048]]
    assert through(load(folder, 1, FP32), [4096, 0]) == [[4097 + 2049]]


def test_a_head_computes_in_the_encoders_dtype(folder: Path) -> None:
    torch.save(ONE_ROW, folder / "head.pt")
    head = load(folder, 1, BF16)
    out = head(torch.tensor([[1.0, 1.0]]))
    assert (head.dtype, out.dtype, out.tolist()) == (torch.bfloat16, torch.bfloat16, [[13.0]])


@pytest.mark.parametrize("out", [3, None])
def test_the_files_rows_are_taken_where_they_are_those_expected_or_none_are(folder: Path, out: int | None) -> None:
    torch.save(THREE_ROWS, folder / "head.pt")
    assert through(load(folder, out), [0, 0]) == [[10, 20, 30]]


def test_another_number_of_rows_is_refused_with_the_option_that_takes_it(folder: Path) -> None:
    torch.save(THREE_ROWS, folder / "head.pt")
    assert refused(folder, 4) == (
        "head.pt has weight [3, 2] and bias [3]; expected [4, 2] and [4]; "
        "if that is right, add it again with --colbert-dim 3"
    )


def test_another_width_than_the_encoders_is_refused(folder: Path) -> None:
    torch.save({"weight": torch.ones(1, 5), "bias": torch.ones(1)}, folder / "head.pt")
    assert refused(folder, 1) == "head.pt has weight [1, 5] and bias [1]; expected [1, 2] and [1]"


@pytest.mark.parametrize("bias", [torch.ones(2), torch.ones(3, 1), torch.tensor(1.0)], ids=["too short", "2-d", "0-d"])
def test_a_bias_that_does_not_fit_the_weight_is_refused(folder: Path, bias: torch.Tensor) -> None:
    torch.save({"weight": torch.ones(3, 2), "bias": bias}, folder / "head.pt")
    assert refused(folder).startswith(f"head.pt has weight [3, 2] and bias {list(bias.shape)}; expected [3, 2] and [3]")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"weight": torch.ones(3, 2)}, "weight"),
        ({"bias": torch.ones(3)}, "bias"),
        ({"weight": torch.ones(2), "bias": torch.ones(2)}, "weight, bias"),
        ({"weight": [1.0], "bias": torch.ones(1)}, "weight, bias"),
        ({"weight": torch.ones(1, 2), "bias": 1.0}, "weight, bias"),
        ({}, "dict"),
        (torch.ones(3, 2), "Tensor"),
    ],
    ids=["no bias", "no weight", "1-d weight", "listed weight", "plain bias", "empty", "lone tensor"],
)
def test_what_is_no_linear_layer_is_refused_with_what_it_holds(folder: Path, content: Any, found: str) -> None:
    torch.save(content, folder / "head.pt")
    assert refused(folder) == f"head.pt holds {found}; expected a linear layer's 'weight' [C, D] and 'bias' [C]"


class Touches:
    """Unpickled with all of pickle's power, it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("saved", ["as torch saves", "as pickle saves"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(folder: Path, tmp_path: Path, saved: str) -> None:
    content = {**ONE_ROW, "extra": Touches(tmp_path / "ran")}
    stream = io.BytesIO()
    if saved == "as torch saves":
        torch.save(content, stream)
    else:
        pickle.dump(content, stream, protocol=2)  # torch warns of others
    (folder / "head.pt").write_bytes(stream.getvalue())
    assert refused(folder).startswith("head.pt cannot be read as tensors alone: ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 1, 300])
def test_a_torch_file_that_is_cut_short_is_refused(folder: Path, kept: int) -> None:
    torch.save(ONE_ROW, folder / "head.pt")
    (folder / "head.pt").write_bytes((folder / "head.pt").read_bytes()[:kept])
    assert refused(folder).startswith("head.pt cannot be read as tensors alone: ")


@pytest.mark.parametrize("kept", [0, 4, 40])
def test_safetensors_that_are_cut_short_are_refused(folder: Path, kept: int) -> None:
    save_file(ONE_ROW, folder / "head.safetensors")
    (folder / "head.safetensors").write_bytes((folder / "head.safetensors").read_bytes()[:kept])
    assert refused(folder).startswith("head.safetensors cannot be read as tensors alone: ")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_git_lfs_pointer_is_refused(folder: Path, suffix: str) -> None:
    pointer = (
        "version https://git-lfs.github.com/spec/v1\noid sha256:45c93804d2142b8f6d7ec6914ae23a1eee9c6a1d\nsize 3516\n"
    )
    (folder / f"head.{suffix}").write_text(pointer, encoding="utf-8")
    assert refused(folder).startswith(f"head.{suffix} cannot be read as tensors alone: ")


def test_a_checkpoint_without_the_head_is_told_both_names_and_what_to_do(folder: Path) -> None:
    assert refused(folder) == (
        f"{folder} has neither head.safetensors nor head.pt that could be found or fetched, without which it is "
        "no BGE-M3; "
        "copy it beside the weights, or serve dense vectors alone: flagtriton add … --model-class encoder-only-base"
    )


def test_a_checkpoint_without_a_configuration_is_told_its_name(folder: Path) -> None:
    torch.save(ONE_ROW, folder / "head.pt")
    (folder / "config.json").unlink()
    assert refused(folder).startswith(f"{folder} has neither config.json that could be found")


def test_a_head_on_the_hub_is_fetched_at_the_deployments_revision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(ONE_ROW, folder / "head.pt")
    asked: list[tuple[str, str, str | None]] = []

    def fetch(checkpoint: str, name: str, *, revision: str | None) -> str:
        asked.append((checkpoint, name, revision))
        if not (folder / name).exists():
            raise EntryNotFoundError("404")
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr(lookup, "_hub_answers", lambda: True)
    assert through(load("maker/m3", 1, revision="v2"), [1, 1]) == [[13]]
    assert asked == [("maker/m3", name, "v2") for name in ("head.safetensors", "head.pt", "config.json")]


def test_a_head_that_the_hub_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: str, **__: Any) -> str:
        raise EntryNotFoundError("404")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr(lookup, "_hub_answers", lambda: True)
    with pytest.raises(ValueError, match=r"maker/m3 has neither head\.safetensors nor head\.pt"):
        load("maker/m3")


@pytest.mark.parametrize("damaged", [b".", b"h\x01", b"\x80\x02X\x01\x00\x00\x00\xff.", b"", b"PK\x03\x04"])
def test_a_damaged_file_is_refused_by_its_name_however_the_unpickler_stumbles(folder: Path, damaged: bytes) -> None:
    (folder / "head.pt").write_bytes(damaged)
    assert refused(folder).startswith("head.pt cannot be read as tensors alone: ")


def test_the_sparse_head_computes_in_float32_behind_an_encoder_in_half_precision(folder: Path) -> None:
    torch.save({"weight": torch.tensor([[1.0, 2**-10]]), "bias": torch.tensor([0.0])}, folder / "sparse_linear.pt")
    head = load_sparse_head(HeadSettings(str(folder)), BF16, torch.device("cpu"))
    # In bfloat16, of 8 significant bits, 1 + 2^-10 would be 1.
    assert head(torch.ones(1, 2, dtype=torch.bfloat16)).item() == 1 + 2**-10
