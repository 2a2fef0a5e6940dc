# SPDX-License-Identifier: Apache-2.0
"""What `flagtriton add` makes of sentence-transformers' files, and that the user's options come before them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flagtriton.protocol.deployment import Deployment
from flagtriton_tools.cli.main import main
from flagtriton_tools.deploy.build import build, describe
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.deploy.pooling_options import finishing_said
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import entries
from tests.support.checkpoints.sentence_transformers import dense, make_sentence_transformer, write
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_m3, make_reranker
from tests.support.folders import facts

PROMPTS = {"query": "query: ", "document": "passage: ", "other": "x: "}
INSTRUCT = "Instruct: Given a web search query, retrieve passages\nQuery:"


def served(folder: Path, **options: Any) -> Deployment:
    return describe(inspect_checkpoint(str(folder)), AddOptions(**options))


def make(folder: Path, *, base: Any = make_bert, prompts: dict[str, str] | None = None, **more: Any) -> Path:
    told = None if prompts is None else {"prompts": prompts, "default_prompt_name": more.pop("default", None)}
    return make_sentence_transformer(folder, base, prompts=told, **more)


def test_a_deployment_says_what_its_vectors_are(tmp_path: Path) -> None:
    found = served(make(tmp_path / "labse", pooling=["cls"], behind=[dense(48, 32), ("Normalize", {})]))
    assert (found.pooling_method, found.modules, found.hidden_size) == ("cls", "Dense:2_Dense", 32)
    assert found.normalize is None


def test_the_absence_of_a_normalize_is_the_default_of_requests(tmp_path: Path) -> None:
    assert served(make(tmp_path / "raw", behind=[])).normalize is False


def test_without_modules_json_everything_is_as_it_was(tmp_path: Path) -> None:
    found = served(make_bert(tmp_path / "bert"))
    plain = describe(facts(source=found.checkpoint, pooling_method="cls", model_type="bert"), AddOptions())
    assert found == plain


def test_no_modules_leaves_out_all_but_the_pooling(tmp_path: Path) -> None:
    transformer = {"max_seq_length": 64, "do_lower_case": True}
    folder = make(tmp_path / "m", behind=[dense(48, 32)], transformer=transformer, prompts=PROMPTS)
    found = served(folder, modules=False)
    assert (found.pooling_method, found.hidden_size, found.definition) == ("mean", 48, "ignored")
    assert (found.modules, found.normalize, found.lower_case, found.default_max_length) == (None, None, None, None)
    assert (found.prompts, found.query_instruction) == (None, None)


def test_a_pooling_of_the_users_replaces_the_files(tmp_path: Path) -> None:
    assert served(make(tmp_path / "m"), pooling_method="cls+max").hidden_size == 96
    with pytest.raises(ToolError, match="2_Dense expects 48 components, but 96 come; --no-modules"):
        served(make(tmp_path / "d", behind=[dense(48, 32)]), pooling_method="cls+max")


def test_an_unknown_pooling_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="--pooling is 'cls\\+median'; expected one of cls, mean, last_token, max"):
        served(make(tmp_path / "m"), pooling_method="cls+median")


def test_what_is_not_served_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", behind=[("LayerNorm", {"dimension": 48})])
    with pytest.raises(ToolError, match=r"has LayerNorm in '2_LayerNorm'; .* --no-modules leaves out"):
        served(folder)
    assert served(folder, modules=False).pooling_method == "mean"


def test_the_length_of_texts_that_do_not_say_is_the_files_unless_the_user_says(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", transformer={"max_seq_length": 64})
    assert (served(folder).default_max_length, served(folder).max_length) == (64, 512)
    assert served(folder, max_length=128).default_max_length is None
    whole = make(tmp_path / "w", transformer={"max_seq_length": 512})
    assert served(whole).default_max_length is None


def test_a_tokenizers_shorter_length_gives_way_to_the_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", transformer={"max_seq_length": 256})
    file = folder / "tokenizer_config.json"
    write(file, {**json.loads(file.read_text(encoding="utf-8")), "model_max_length": 128})
    assert served(folder).max_length == 256


@pytest.mark.parametrize(("length", "most", "default"), [(8192, 8192, None), (256, 512, 256)])
def test_a_checkpoint_without_positions_has_the_files_length(
    length: int, most: int, default: int | None, tmp_path: Path
) -> None:
    folder = make(tmp_path / "m", transformer={"max_seq_length": length})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write(folder / "config.json", {**config, "max_position_embeddings": None})
    (folder / "tokenizer_config.json").unlink()
    assert (served(folder).max_length, served(folder).default_max_length) == (most, default)


def test_prompts_become_instructions(tmp_path: Path) -> None:
    found = served(make(tmp_path / "m", prompts=PROMPTS, default="other"))
    assert (found.query_instruction, found.passage_instruction) == ("query: ", "passage: ")
    assert json.loads(found.prompts or "") == PROMPTS
    assert found.default_prompt_name == "other"


def test_a_passage_prompt_goes_by_several_names(tmp_path: Path) -> None:
    found = served(make(tmp_path / "m", prompts={"document": "", "passage": "passage: "}))
    assert (found.query_instruction, found.passage_instruction) == (None, "passage: ")


def test_the_users_instructions_come_before_the_prompts(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", prompts=PROMPTS, default="other")
    found = served(folder, query_instruction="", passage_instruction="p: ")
    assert (found.query_instruction, found.passage_instruction) == ("", "p: ")
    without = served(folder, prompts=False)
    assert (without.query_instruction, without.passage_instruction, without.default_prompt_name) == (None, None, None)
    assert json.loads(without.prompts or "") == PROMPTS  # they can still be asked for by name


def test_the_model_tables_names_keep_flagembeddings_way(tmp_path: Path) -> None:
    prompts = {"query": INSTRUCT, "document": ""}
    folder = make(
        tmp_path / "Qwen3-Embedding-0.6B",
        base=partial(make_decoder, family="qwen3"),
        pooling=["last_token"],
        prompts=prompts,
        behind=[dense(48, 16)],
        transformer={"max_seq_length": 16, "do_lower_case": True, "config_args": {"any": 1}},
    )
    found = served(folder)
    assert (found.query_instruction, found.lower_case, found.default_max_length) == (None, None, None)
    assert (found.normalize, json.loads(found.prompts or "")) == (None, prompts)
    assert (found.modules, found.hidden_size) == ("Dense:2_Dense", 16)  # the vectors are what the checkpoint defines
    asked = served(folder, prompts=True)
    assert asked.query_instruction == "Given a web search query, retrieve passages"
    assert asked.query_instruction_format == "Instruct: {}\nQuery:{}"


def test_a_prompt_that_a_format_does_not_make_is_not_bent(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", prompts={"query": INSTRUCT})
    with pytest.raises(ToolError, match=r"--query-instruction, --query-instruction-format '\{\}\{\}', or --no-prompts"):
        served(folder, query_instruction_format="<{}> {}")
    assert served(folder, query_instruction_format="Instruct: {}\\nQuery:{}").query_instruction == (
        "Given a web search query, retrieve passages"
    )


def test_prompts_of_a_hub_name_that_cannot_be_read_are_not_passed_over() -> None:
    with pytest.raises(ToolError, match=r"--prompts: the files of Qwen/Qwen3-Embedding-0\.6B cannot be read here"):
        describe(inspect_checkpoint("Qwen/Qwen3-Embedding-0.6B"), AddOptions(prompts=True))


def test_m3_has_no_place_for_a_dense_layer(tmp_path: Path) -> None:
    folder = make(tmp_path / "m3", base=make_m3, pooling=["cls"], behind=[dense(48, 32)])
    with pytest.raises(ToolError, match="has Dense:2_Dense behind its pooling, for which encoder-only-m3 has no place"):
        served(folder)
    assert served(folder, model_class="encoder-only-base").hidden_size == 32
    assert served(folder, modules=False).hidden_size == 48


def test_m3_with_its_published_modules_is_as_it_was(tmp_path: Path) -> None:
    folder = make(tmp_path / "m3", base=make_m3, pooling=["cls"])
    found = served(folder)
    assert (found.model_class, found.pooling_method, found.hidden_size) == ("encoder-only-m3", "cls", 48)


def test_m3_has_one_pooling(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"--pooling is cls\+mean: tiny is encoder-only-m3, which has one pooling"):
        build(inspect_checkpoint(str(make_m3(tmp_path / "m3"))), AddOptions(name="tiny", pooling_method="cls+mean"))


@pytest.mark.parametrize("model_class", ["decoder-only-icl", "encoder-only-m3"])
def test_prompts_that_are_not_pooled_need_a_class_that_can(model_class: str, tmp_path: Path) -> None:
    decoder = model_class == "decoder-only-icl"
    base: Any = partial(make_decoder, family="llama") if decoder else make_m3
    pooling = ["cls", "last_token"]
    folder = make(tmp_path / "m", base=base, pooling=pooling, include_prompt=False)
    options = {"pooling_method": "last_token"} if decoder else {"pooling_method": "cls"}
    with pytest.raises(ToolError, match=f"has include_prompt false, which {model_class} cannot honour"):
        served(folder, model_class=model_class, task="embed", **options)


def test_a_dense_layer_under_icl_is_served(tmp_path: Path) -> None:
    base = partial(make_decoder, family="llama")
    folder = make(tmp_path / "m", base=base, pooling=["last_token"], behind=[dense(48, 8)])
    assert served(folder, model_class="decoder-only-icl").hidden_size == 8


def test_a_checkpoint_with_a_pooling_is_an_embedder(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write(folder / "config.json", {**config, "architectures": ["BertForMaskedLM"]})
    assert (served(folder).task, served(folder).model_class) == ("embed", "encoder-only-base")
    decoder = make(tmp_path / "d", base=partial(make_decoder, family="qwen3", head=True), pooling=["last_token"])
    assert (served(decoder).task, served(decoder).model_class) == ("embed", "decoder-only-base")


def test_a_decoder_that_was_made_for_mean_pooling_is_still_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", base=partial(make_decoder, family="mistral"))
    with pytest.raises(ToolError, match="found beside it: --model-class encoder-only-base has the other poolings"):
        served(folder)
    assert served(folder, model_class="encoder-only-base").pooling_method == "mean"


def test_a_rerankers_modules_are_not_passed_over(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", base=partial(make_reranker, make=make_bert), behind=[dense(48, 1)])
    with pytest.raises(ToolError, match=r"is a reranker whose modules\.json has Pooling, Dense, for which there is no"):
        served(folder)
    assert served(folder, modules=False).definition == "ignored"


def test_a_reranker_that_lists_its_transformer_alone_is_served(tmp_path: Path) -> None:
    folder = make_reranker(tmp_path / "m", make_bert)
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    write(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    write(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    assert (served(folder).task, served(folder).definition) == ("rerank", None)


def test_a_transformer_in_a_folder_of_its_own_is_said_to_be_there(tmp_path: Path) -> None:
    folder = make(tmp_path / "old")
    make_bert(folder / "0_Transformer")
    content = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write(folder / "modules.json", [{**content[0], "path": "0_Transformer"}, *content[1:]])
    (folder / "config.json").unlink()
    with pytest.raises(ToolError, match="has its transformer in 0_Transformer; copy the files there up to"):
        inspect_checkpoint(str(folder))


def test_adding_says_what_follows_pooling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "m", behind=[dense(48, 32)], prompts={"query": "[INST] q: "})
    repository = str(tmp_path / "repo")
    assert main(["add", str(folder), "--repository", repository]) == 0
    said = "mean pooling, Dense:2_Dense, not normalised unless a request asks for it, query instruction '[INST] q: ', "
    assert said in capsys.readouterr().err
    assert main(["add", str(folder), "--repository", repository, "--force", "--no-modules", "--pooling", "cls"]) == 0
    assert entries(Path(repository))[0].deployment.definition == "ignored"


def test_a_number_of_components_is_the_default_of_requests(tmp_path: Path) -> None:
    folder = make_sentence_transformer(tmp_path / "m", make_bert, prompts={"truncate_dim": 16})
    found = served(folder)
    assert (found.truncate_dim, found.hidden_size, found.normalize) == (16, 48, False)
    assert "16 components unless a request asks for more, " in finishing_said(found)
    assert served(folder, modules=False).truncate_dim is None


def test_m3_does_not_cut_its_vectors_by_default(tmp_path: Path) -> None:
    folder = make_sentence_transformer(tmp_path / "m3", make_m3, pooling=["cls"], prompts={"truncate_dim": 16})
    with pytest.raises(ToolError, match="has truncate_dim 16 behind its pooling, for which encoder-only-m3 has no"):
        served(folder)
