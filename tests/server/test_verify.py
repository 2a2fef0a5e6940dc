# SPDX-License-Identifier: Apache-2.0
"""`flagtriton verify` beside a real server: published layouts are equal, another checkpoint's weights differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer

from flagtriton import FlagModel
from flagtriton.errors import InvalidRequestError
from flagtriton_tools.cli.main import cli
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.options import ServeOptions
from tests.conftest import serve_options
from tests.support.checkpoints.sentence_transformers import dense, make_sentence_transformer
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_m3, make_reranker
from tests.support.checkpoints.tokenizer_layouts import LAYOUTS

pytestmark = pytest.mark.server

IN_ENCODER = {"pool_in_encoder": True}
LLM_RERANKER = {"task": "rerank", "model_class": "decoder-only-base"}


def laid_out(folder: Path, layout: str, family: str) -> Path:
    """Write a checkpoint with a published layout's tokenizer and random weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    LAYOUTS[layout].make(folder)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    heads = {"num_key_value_heads": 2} if family == "mistral" else {"pad_token_id": 1 if family == "xlm-roberta" else 0}
    config = AutoConfig.for_model(family, vocab_size=1200, max_position_embeddings=514, **sizes, **heads)
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def with_a_token_more(folder: Path) -> Path:
    """Add a token to a checkpoint's tokenizer, and not to its model, as fine-tuning code is known to do."""
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(["[EXTRA]"])
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("verify")
    return {
        "eos-flag": (laid_out(folder / "eos-flag", "mistral-eos-flag", "mistral"), IN_ENCODER),
        "sentencepiece": (laid_out(folder / "sentencepiece", "xlm-roberta-sentencepiece", "xlm-roberta"), IN_ENCODER),
        "vocab-txt": (laid_out(folder / "vocab-txt", "bert-vocab-txt", "bert"), IN_ENCODER),
        "dense": (
            make_sentence_transformer(
                folder / "dense", make_bert, pooling=("max", "weightedmean"), behind=(dense(96, 16),)
            ),
            {},
        ),
        "defaults": (
            make_sentence_transformer(
                folder / "defaults",
                make_bert,
                pooling=("weightedmean",),
                include_prompt=False,
                behind=(("Normalize", {}),),
                transformer={"max_seq_length": 24},
                prompts={"prompts": {"sts": "compare: "}, "default_prompt_name": "sts", "truncate_dim": 16},
            ),
            {},
        ),
        "unembedded": (with_a_token_more(make_bert(folder / "unembedded")), IN_ENCODER),
        "m3": (make_m3(folder / "m3"), {}),
        "reranker": (make_reranker(folder / "reranker", make_bert), {}),
        "reranker-llm": (make_decoder(folder / "reranker-llm", "gemma", positions=2048, head=True), LLM_RERANKER),
    }


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, tuple[Path, dict[str, Any]]]
) -> Iterator[ServeOptions]:
    folder = tmp_path_factory.mktemp("served")
    for name, (checkpoint, chosen) in checkpoints.items():
        facts = inspect_checkpoint(str(checkpoint))
        defaults = {"name": name, "precision": "fp32", "task": facts.task or "embed"}
        add_models(build(facts, AddOptions(**{**defaults, **chosen})), folder / "repository")
    with running_server(serve_options(folder / "repository", folder / "tritonserver.log")) as running:
        yield running.options


def verify(name: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, ["verify", name, "--json", *arguments], standalone_mode=False)
    assert result.exception is None, result.exception
    return int(result.return_value), json.loads(result.stdout)


def verdicts(report: dict[str, Any]) -> dict[str, bool | None]:
    return {check["what"]: check["ok"] for check in report["checks"]}


@pytest.mark.parametrize("name", ["eos-flag", "sentencepiece", "vocab-txt"])
@pytest.mark.parametrize("wire", ["grpc_url", "http_url"])
def test_layouts_that_stock_classes_misread_are_served_right(name: str, wire: str, server: ServeOptions) -> None:
    code, report = verify(name, "--url", getattr(server, wire), "--library", "none")
    found = verdicts(report)
    assert code == 0, report
    assert [found[what] for what in ("token ids", "truncation", "dense, transformers")] == [True, True, True]
    assert all(check["difference"] <= 1e-5 for check in report["checks"] if check["difference"] is not None)


def test_all_outputs_of_bge_m3_are_compared(server: ServeOptions) -> None:
    code, report = verify("m3", "--url", server.grpc_url, "--library", "none")
    found = verdicts(report)
    compared = ("token ids", "dense, transformers", "lexical weights", "ColBERT vectors")
    assert (code, [found[what] for what in compared]) == (0, [True] * 4), report


@pytest.mark.parametrize("name", ["reranker", "reranker-llm"])
def test_rerankers_are_compared_by_ids_and_scores(name: str, server: ServeOptions) -> None:
    code, report = verify(name, "--url", server.grpc_url)
    assert (code, verdicts(report)) == (0, {"token ids of pairs": True, "scores, transformers": True}), report


def test_flagembedding_is_compared_where_it_is_installed(server: ServeOptions) -> None:
    code, report = verify("m3", "--url", server.grpc_url, "--library", "flagembedding")
    assert (code, verdicts(report)["dense, flagembedding"]) == (0, True), report


def test_modules_of_sentence_transformers_are_compared_with_it_and_not_with_flagembedding(server: ServeOptions) -> None:
    code, report = verify("dense", "--url", server.grpc_url)
    found = verdicts(report)
    assert code == 0, report
    compared = ("dense, transformers", "dense, sentence-transformers", "dense, flagembedding")
    assert [found[what] for what in compared] == [True, True, None]


def test_requests_without_options_are_compared(server: ServeOptions) -> None:
    code, report = verify("defaults", "--url", server.grpc_url)
    found = verdicts(report)
    assert code == 0, report
    compared = ("sentence-transformers' files", "dense, no options", "dense, sentence-transformers")
    assert [found[what] for what in compared] == [True] * 3


def test_files_that_have_changed_behind_a_running_server_differ(
    server: ServeOptions, checkpoints: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(checkpoints["defaults"][0], tmp_path / "changed"))
    (changed / "sentence_bert_config.json").write_text('{"max_seq_length": 32}', encoding="utf-8")
    code, report = verify("defaults", "--url", server.grpc_url, "--library", "none", "--checkpoint", str(changed))
    assert (code, verdicts(report)["sentence-transformers' files"]) == (1, False)
    (row,) = (check for check in report["checks"] if check["ok"] is False)
    assert "its sentence-transformers files say: 32 tokens;" in row["detail"]


def test_a_library_that_tokenises_otherwise_is_no_mismatch_but_is_told(server: ServeOptions) -> None:
    code, report = verify("eos-flag", "--url", server.grpc_url, "--library", "flagembedding")
    (row,) = (check for check in report["checks"] if check["what"] == "dense, flagembedding")
    assert (code, row["ok"]) == (0, None)
    assert "gives other token ids for 18 of 18 texts" in row["detail"]


def test_other_weights_than_the_served_ones_differ(server: ServeOptions, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    other = laid_out(tmp_path / "other", "bert-vocab-txt", "bert")
    module = AutoModel.from_pretrained(other)
    with torch.no_grad():
        module.encoder.layer[1].output.dense.weight.neg_()
    module.save_pretrained(other)
    code, report = verify("vocab-txt", "--url", server.grpc_url, "--library", "none", "--checkpoint", str(other))
    assert (code, report["ok"], verdicts(report)["token ids"]) == (1, False, True)
    assert verdicts(report)["dense, transformers"] is False


def test_another_tokenizer_than_the_served_one_differs_and_the_text_is_named(
    server: ServeOptions, tmp_path: Path
) -> None:
    other = laid_out(tmp_path / "other", "bert-vocab-txt-cased", "bert")
    code, report = verify("vocab-txt", "--url", server.grpc_url, "--library", "none", "--checkpoint", str(other))
    (row,) = (check for check in report["checks"] if check["what"] == "token ids")
    assert (code, row["ok"]) == (1, False)
    assert row["detail"].startswith("text 0 'What is the capital of France?'")


def test_the_users_own_texts_are_taken_and_the_report_is_a_table(server: ServeOptions, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("one text\nanother\\nof two lines\n", encoding="utf-8")
    arguments = ["verify", "vocab-txt", "--url", server.grpc_url, "--texts", str(tmp_path / "texts")]
    result = CliRunner().invoke(cli, [*arguments, "--library", "none"], standalone_mode=False)
    assert (result.exception, result.return_value) == (None, 0)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["token", "ids", "2", "equal"] in rows


@pytest.mark.parametrize("wire", ["grpc_url", "http_url"])
def test_a_text_with_a_token_that_the_model_lacks_is_refused_by_name(wire: str, server: ServeOptions) -> None:
    model = FlagModel("unembedded", url=getattr(server, wire))
    with pytest.raises(
        InvalidRequestError, match=r"text 1 contains the token '\[EXTRA\]' \(id \d+\), but the model has"
    ):
        model.encode(["fine", "with [EXTRA] in it"])
    assert np.isfinite(model.encode(["fine", "without"])).all()


def test_a_token_that_the_model_lacks_is_in_the_log_with_both_numbers(server: ServeOptions) -> None:
    assert server.log_file is not None
    log = server.log_file.read_text(encoding="utf-8")
    assert "the tokenizer has 1 token without an embedding, '[EXTRA]'" in log


def test_a_deployment_that_is_not_served_is_told_in_one_sentence(server: ServeOptions) -> None:
    result = CliRunner().invoke(cli, ["verify", "nothing", "--url", server.grpc_url], standalone_mode=False)
    assert "model 'nothing' is not served" in str(result.exception)


def test_add_verifies_what_it_has_added(checkpoints: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path) -> None:
    checkpoint = str(checkpoints["vocab-txt"][0])
    arguments = ["add", checkpoint, "--repository", str(tmp_path / "repo"), "--precision", "fp32", "--pool-in-encoder"]
    result = CliRunner().invoke(cli, [*arguments, "--task", "embed", "--verify"], standalone_mode=False)
    assert (result.exception, result.return_value) == (None, 0)
    assert "dense, transformers" in result.stdout
    assert "differs" not in result.stdout
