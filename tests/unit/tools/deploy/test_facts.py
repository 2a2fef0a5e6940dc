# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.deploy.facts`: what a folder's files and a checkpoint's name tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.deploy.facts import CheckpointFacts, adapter_source, inspect_checkpoint
from flagtriton_tools.errors import ToolError
from tests.support.folders import BERT_CONFIG, write_checkpoint, write_json

MISTRAL = {"model_type": "mistral", "architectures": ["MistralModel"], "hidden_size": 48}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny")


def test_a_folder_is_named_by_its_absolute_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert inspect_checkpoint("./tiny").source == str(folder.resolve())


def test_a_deployment_is_called_after_the_folder(folder: Path) -> None:
    assert inspect_checkpoint(str(folder)).name == "tiny"


def test_a_training_checkpoint_is_called_after_the_folder_above(tmp_path: Path) -> None:
    assert inspect_checkpoint(str(write_checkpoint(tmp_path / "tuned" / "checkpoint-500"))).name == "tuned"


def test_the_hidden_size_is_the_configurations(folder: Path) -> None:
    assert inspect_checkpoint(str(folder)).hidden_size == 48


@pytest.mark.parametrize(
    ("absent", "named"),
    [("config.json", "config.json missing"), ("model.safetensors", "weights missing"), ("tokenizer.json", "tokenizer")],
)
def test_what_a_folder_lacks_is_named(tmp_path: Path, absent: str, named: str) -> None:
    folder = write_checkpoint(tmp_path / "tiny", without=absent)
    with pytest.raises(ToolError, match=rf"tiny is no checkpoint: .*{named}.*looked for .*{absent}"):
        inspect_checkpoint(str(folder))


@pytest.mark.parametrize("weights", ["model.safetensors.index.json", "pytorch_model.bin"])
def test_weights_may_be_in_other_files(tmp_path: Path, weights: str) -> None:
    folder = write_checkpoint(tmp_path / "tiny", without="model.safetensors")
    (folder / weights).touch()
    assert inspect_checkpoint(str(folder)).name == "tiny"


def test_a_configuration_that_is_no_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ToolError, match=r"config\.json cannot be read as JSON"):
        inspect_checkpoint(str(folder))


def test_a_configuration_that_is_no_object_is_refused(folder: Path) -> None:
    write_json(folder / "config.json", [1])
    with pytest.raises(ToolError, match="holds a list, expected an object"):
        inspect_checkpoint(str(folder))


def test_the_length_is_what_the_model_has_positions_for(folder: Path) -> None:
    assert inspect_checkpoint(str(folder)).max_length == 512


def test_the_length_of_robertas_family_leaves_its_unused_positions_out(tmp_path: Path) -> None:
    config = {"model_type": "xlm-roberta", "max_position_embeddings": 8194, "pad_token_id": 1}
    # pad id 1: rows 0 and 1 are never used
    assert inspect_checkpoint(str(write_checkpoint(tmp_path / "tiny", config))).max_length == 8192


def test_a_tokenizers_shorter_length_counts(folder: Path) -> None:
    write_json(folder / "tokenizer_config.json", {"model_max_length": 128})
    assert inspect_checkpoint(str(folder)).max_length == 128


def test_a_tokenizers_longer_length_does_not_count(folder: Path) -> None:
    write_json(folder / "tokenizer_config.json", {"model_max_length": 4096})
    assert inspect_checkpoint(str(folder)).max_length == 512


def test_a_tokenizers_huge_number_is_no_length(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", {"model_type": "bert"})
    write_json(folder / "tokenizer_config.json", {"model_max_length": 1000000000000000019884624838656})
    assert inspect_checkpoint(str(folder)).max_length is None


def pooling(folder: Path, content: dict[str, Any]) -> str | None:
    write_json(folder / "1_Pooling" / "config.json", content)
    return inspect_checkpoint(str(folder)).pooling_method


@pytest.mark.parametrize(
    ("flag", "method"),
    [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_lasttoken", "last_token"),
    ],
)
def test_pooling_is_what_sentence_transformers_flags_say(folder: Path, flag: str, method: str) -> None:
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}
    assert pooling(folder, {**flags, flag: True}) == method


@pytest.mark.parametrize("method", ["cls", "mean"])
def test_pooling_is_what_the_newer_file_names(folder: Path, method: str) -> None:
    assert pooling(folder, {"pooling_mode": method}) == method


def test_the_newer_files_last_token_is_known_by_its_own_name(folder: Path) -> None:
    # sentence-transformers writes "lasttoken", FlagEmbedding says "last_token"
    assert pooling(folder, {"pooling_mode": "lasttoken"}) == "last_token"


def test_two_poolings_at_once_are_none_we_know(folder: Path) -> None:
    assert pooling(folder, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}) is None


@pytest.mark.parametrize("second", ["pooling_mode_max_tokens", "pooling_mode_weightedmean_tokens"])
def test_a_pooling_joined_with_one_we_do_not_have_is_none_we_know(folder: Path, second: str) -> None:
    assert pooling(folder, {"pooling_mode_mean_tokens": True, second: True}) is None


def test_without_a_pooling_file_pooling_is_unknown(folder: Path) -> None:
    assert inspect_checkpoint(str(folder)).pooling_method is None


def classified(tmp_path: Path, **config: Any) -> tuple[str | None, str | None]:
    facts = inspect_checkpoint(str(write_checkpoint(tmp_path / "tiny", {**BERT_CONFIG, **config})))
    return facts.task, facts.model_class


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [("BertModel", "bert"), ("XLMRobertaModel", "xlm-roberta"), ("MPNetModel", "mpnet")],
)
def test_a_bare_encoder_is_an_embedder(tmp_path: Path, architecture: str, model_type: str) -> None:
    found = classified(tmp_path, architectures=[architecture], model_type=model_type)
    assert found == ("embed", "encoder-only-base")


@pytest.mark.parametrize(
    ("architecture", "model_type"), [("MistralModel", "mistral"), ("Gemma2Model", "gemma2"), ("Qwen3Model", "qwen3")]
)
def test_a_bare_decoder_is_an_embedder(tmp_path: Path, architecture: str, model_type: str) -> None:
    found = classified(tmp_path, architectures=[architecture], model_type=model_type)
    assert found == ("embed", "decoder-only-base")


def test_a_bare_model_of_another_kind_does_not_tell_its_class(tmp_path: Path) -> None:
    assert classified(tmp_path, architectures=["T5Model"], model_type="t5") == ("embed", None)


def test_a_classifier_is_a_reranker(tmp_path: Path) -> None:
    found = classified(tmp_path, architectures=["XLMRobertaForSequenceClassification"])
    assert found == ("rerank", "encoder-only-base")


@pytest.mark.parametrize("architecture", ["GemmaForCausalLM", "BertForMaskedLM"])
def test_a_language_model_may_be_either(tmp_path: Path, architecture: str) -> None:
    assert classified(tmp_path, architectures=[architecture])[0] is None


def test_a_decoders_class_is_the_same_for_both_tasks(tmp_path: Path) -> None:
    found = classified(tmp_path, architectures=["GemmaForCausalLM"], model_type="gemma")
    assert found == (None, "decoder-only-base")


@pytest.mark.parametrize("name", ["LayerWiseMiniCPM", "CostWiseGemma"])
def test_layered_rerankers_need_none_of_the_code_that_they_bring(tmp_path: Path, name: str) -> None:
    config = {"architectures": [f"{name}ForCausalLM"], "auto_map": {"AutoConfig": "code.Config"}}
    assert classified(tmp_path, **config)[0] == "rerank"
    assert not inspect_checkpoint(str(tmp_path / "tiny")).trust_remote_code


@pytest.mark.parametrize("architectures", [[], None])
def test_a_configuration_without_an_architecture_tells_nothing(tmp_path: Path, architectures: list[str] | None) -> None:
    assert classified(tmp_path, architectures=architectures) == (None, None)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("heads", [["sparse_linear", "colbert_linear"], ["sparse_linear"], ["colbert_linear"]], ids=str)
def test_m3_is_known_by_its_heads_even_if_one_is_missing(folder: Path, heads: list[str], suffix: str) -> None:
    # Served as a plain encoder it would answer; as M3, its step says which head it lacks.
    for head in heads:
        (folder / f"{head}.{suffix}").touch()
    facts = inspect_checkpoint(str(folder))
    assert (facts.task, facts.model_class) == ("embed", "encoder-only-m3")


@pytest.mark.parametrize("other", ["sparse_linear.bin", "colbert.pt"])
def test_other_files_make_no_m3(folder: Path, other: str) -> None:
    (folder / other).touch()
    assert inspect_checkpoint(str(folder)).model_class == "encoder-only-base"


def test_a_folder_of_a_published_name_is_looked_up(tmp_path: Path) -> None:
    facts = inspect_checkpoint(str(write_checkpoint(tmp_path / "e5-base-v2")))
    assert (facts.pooling_method, facts.known_from) == ("mean", "the model table")


def test_a_folder_of_a_published_name_keeps_its_own_sizes(tmp_path: Path) -> None:
    facts = inspect_checkpoint(str(write_checkpoint(tmp_path / "bge-large-en", {**BERT_CONFIG, "hidden_size": 6})))
    assert facts.hidden_size == 6  # the table says 1024


def test_a_published_embedder_is_known_by_its_hub_name() -> None:
    assert inspect_checkpoint("BAAI/bge-large-en-v1.5") == CheckpointFacts(
        source="BAAI/bge-large-en-v1.5",
        name="bge-large-en-v1.5",
        known_from="the model table",
        task="embed",
        model_class="encoder-only-base",
        pooling_method="cls",
        hidden_size=1024,
        max_length=512,
    )


def test_a_published_instruction_format_is_known() -> None:
    facts = inspect_checkpoint("intfloat/multilingual-e5-large-instruct")
    assert facts.query_instruction_format == "Instruct: {}\nQuery: {}"


def test_a_published_reranker_is_known_by_its_hub_name() -> None:
    facts = inspect_checkpoint("BAAI/bge-reranker-v2-gemma")
    assert (facts.task, facts.model_class) == ("rerank", "decoder-only-base")


def test_another_hub_name_tells_nothing_but_itself() -> None:
    assert inspect_checkpoint("maker/new") == CheckpointFacts("maker/new", "new", "its name alone")


@pytest.mark.parametrize("asked", ["./gone", "/gone", "~/gone", "../gone", "a/b/c", "two words", ""])
def test_a_path_that_is_no_folder_is_not_taken_for_a_hub_name(asked: str) -> None:
    with pytest.raises(ToolError, match="is no folder; name a checkpoint's folder, or a hub name"):
        inspect_checkpoint(asked)


def test_a_missing_folder_below_one_that_exists_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ToolError, match="models/mine does not exist"):
        inspect_checkpoint("models/mine")


def test_distilberts_width_is_its_dim(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", {"model_type": "distilbert", "dim": 48})
    assert inspect_checkpoint(str(folder)).hidden_size == 48


def test_an_adapters_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "lora" / "adapter_config.json", {})
    monkeypatch.chdir(tmp_path)
    assert adapter_source("lora") == str(tmp_path / "lora")


def test_an_adapters_hub_name_stays() -> None:
    assert adapter_source("maker/lora") == "maker/lora"


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a b", ""])
def test_what_is_neither_folder_nor_hub_name_is_no_adapter(name: str) -> None:
    with pytest.raises(ToolError, match="which is no folder and no hub name"):
        adapter_source(name)


def test_a_folder_without_an_adapters_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"holds no adapter_config\.json"):
        adapter_source(str(tmp_path))


def test_a_snapshot_in_the_hubs_cache_is_the_published_checkpoint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "models--BAAI--bge-en-icl" / "snapshots" / "5617a9f", MISTRAL)
    facts = inspect_checkpoint(str(folder))
    assert (facts.name, facts.model_class, facts.known_from) == ("bge-en-icl", "decoder-only-icl", "the model table")
    assert facts.source == str(folder.resolve())


def test_a_link_is_the_published_checkpoint_whose_name_it_has(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "store-0f3c", MISTRAL)
    (tmp_path / "bge-en-icl").symlink_to("store-0f3c")
    facts = inspect_checkpoint(str(tmp_path / "bge-en-icl"))
    assert (facts.name, facts.model_class) == ("bge-en-icl", "decoder-only-icl")
    assert facts.source == str(folder.resolve())  # what is served does not change with the link


def test_a_link_of_another_name_is_what_it_leads_to(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "models--BAAI--bge-en-icl" / "snapshots" / "5617a9f", MISTRAL)
    (tmp_path / "current").symlink_to("models--BAAI--bge-en-icl/snapshots/5617a9f")
    facts = inspect_checkpoint(str(tmp_path / "current"))
    assert (facts.name, facts.model_class) == ("current", "decoder-only-icl")


def test_modelscopes_folder_is_the_published_checkpoint(tmp_path: Path) -> None:
    facts = inspect_checkpoint(str(write_checkpoint(tmp_path / "hub" / "BAAI" / "bge-large-zh-v1___5")))
    assert (facts.name, facts.pooling_method, facts.known_from) == ("bge-large-zh-v1.5", "cls", "the model table")


@pytest.mark.parametrize("spelling", ["BGE-EN-ICL", "Bge-En-Icl"])
def test_upper_and_lower_case_do_not_hide_a_published_checkpoint(spelling: str, tmp_path: Path) -> None:
    facts = inspect_checkpoint(str(write_checkpoint(tmp_path / spelling, MISTRAL)))
    assert (facts.name, facts.model_class) == (spelling, "decoder-only-icl")


def test_a_repositorys_whole_folder_in_the_hubs_cache_is_refused_naming_its_snapshot(tmp_path: Path) -> None:
    repository = tmp_path / "models--BAAI--bge-m3"
    for revision in ("1111", "5617"):
        write_checkpoint(repository / "snapshots" / revision)
    with pytest.raises(ToolError, match=r"Hub's cache; name one of its snapshots: .*/snapshots/1111$"):
        inspect_checkpoint(str(repository))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("5617", encoding="utf-8")
    with pytest.raises(ToolError, match=r"name one of its snapshots: .*/snapshots/5617$"):
        inspect_checkpoint(str(repository))


def test_what_is_added_from_the_working_directory_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_checkpoint(tmp_path / "bge-m3"))
    assert inspect_checkpoint(".").name == "bge-m3"
