# SPDX-License-Identifier: Apache-2.0
"""`sentence_transformers.definition` and `transformer_settings`: what files say, and which are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flagtriton_server.checkpoint.lookup import file_finder
from flagtriton_server.sentence_transformers.definition import DefinitionError, EmbedderDefinition, listed_modules
from flagtriton_server.sentence_transformers.summary import summary_of
from flagtriton_server.sentence_transformers.transformer_settings import embedder_definition
from tests.support.checkpoints.sentence_transformers import dense
from tests.support.folders import write_json

OLD = "sentence_transformers.models."
MEAN = {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True}


def listed(folder: Path, *types: str, paths: dict[str, str] | None = None) -> None:
    """Write a `modules.json` whose modules have these dotted types and lie in numbered folders."""
    entries = [
        {"idx": i, "name": str(i), "path": (paths or {}).get(kind, f"{i}_part" if i else ""), "type": kind}
        for i, kind in enumerate(types)
    ]
    write_json(folder / "modules.json", entries)


def defined(folder: Path) -> EmbedderDefinition:
    find = file_finder(str(folder))
    return embedder_definition(find, listed_modules(find))


def plain(folder: Path, *behind: str, pooling: dict[str, Any] | None = None) -> Path:
    listed(folder, f"{OLD}Transformer", f"{OLD}Pooling", *behind)
    write_json(folder / "1_part" / "config.json", MEAN if pooling is None else pooling)
    return folder


def test_without_modules_json_nothing_is_defined(tmp_path: Path) -> None:
    write_json(tmp_path / "sentence_bert_config.json", {"do_lower_case": True})
    assert defined(tmp_path) == EmbedderDefinition()


@pytest.mark.parametrize(
    ("transformer", "pooling", "last"),
    [
        (f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Normalize"),
        (f"{OLD}Transformer.Transformer", f"{OLD}Pooling.Pooling", f"{OLD}Normalize.Normalize"),
        (
            "sentence_transformers.base.modules.transformer.Transformer",
            "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            "sentence_transformers.base.modules.normalize.Normalize",
        ),
    ],
)
def test_modules_go_by_their_class_in_any_package_of_sentence_transformers(
    transformer: str, pooling: str, last: str, tmp_path: Path
) -> None:
    listed(tmp_path, transformer, pooling, last)
    write_json(tmp_path / "1_part" / "config.json", MEAN)
    found = defined(tmp_path)
    assert (found.pooling, found.normalize, found.modules) == ("mean", True, None)


def test_without_a_normalize_vectors_are_not_normalised(tmp_path: Path) -> None:
    assert not defined(plain(tmp_path)).normalize


@pytest.mark.parametrize(
    "kind",
    [
        f"{OLD}LayerNorm",
        f"{OLD}WeightedLayerPooling",
        f"{OLD}CNN",
        f"{OLD}Pooling",
        f"{OLD}Router",
        "pylate.models.Dense.Dense",
        "not_sentence_transformers.models.Normalize",
    ],
)
def test_any_other_module_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    name = kind.rpartition(".")[2] if kind.startswith(OLD) else kind
    with pytest.raises(DefinitionError, match=f"has {name} in '2_part'; Dense, Normalize and Dropout are"):
        defined(plain(tmp_path, kind))


@pytest.mark.parametrize(
    ("types", "complaint"),
    [
        ([f"{OLD}WordEmbeddings", f"{OLD}Pooling"], "begins with WordEmbeddings"),
        (["custom_st.Transformer", f"{OLD}Pooling"], "begins with custom_st.Transformer"),
        ([f"{OLD}Transformer"], "has nothing behind the Transformer"),
        ([f"{OLD}Transformer", f"{OLD}Dense", f"{OLD}Pooling"], "has Dense behind the Transformer"),
    ],
)
def test_a_chain_of_another_shape_is_refused(types: list[str], complaint: str, tmp_path: Path) -> None:
    listed(tmp_path, *types)
    with pytest.raises(DefinitionError, match=complaint):
        defined(tmp_path)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b", "with,comma"])
def test_a_module_outside_the_checkpoint_is_refused(path: str, tmp_path: Path) -> None:
    listed(tmp_path, f"{OLD}Transformer", f"{OLD}Pooling", paths={f"{OLD}Pooling": path})
    with pytest.raises(DefinitionError, match="names the path"):
        defined(tmp_path)


@pytest.mark.parametrize("content", [{"a": 1}, ["text"], [{"type": "x"}], [{"path": "", "type": 3}]])
def test_a_file_that_is_no_list_of_modules_is_refused(content: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", content)
    with pytest.raises(DefinitionError, match=r"modules\.json"):
        defined(tmp_path)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "lasttoken"}, "last_token"),
        ({"pooling_mode": ["mean", "cls"]}, "mean+cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls+mean"),
        ({"pooling_mode_cls_token": False}, "mean"),  # sentence-transformers' own choice where all are off
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len"),
    ],
)
def test_poolings_keep_the_order_in_which_their_vectors_are_joined(
    config: dict[str, Any], pooling: str, tmp_path: Path
) -> None:
    assert defined(plain(tmp_path, pooling=config)).pooling == pooling


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"pooling_mode": "median"}, "has pooling_mode 'median'; known are cls, max"),
        ({"pooling_mode": []}, r"has pooling_mode \[\]"),
        ({"pooling_mode_median_tokens": True}, "has pooling_mode_median_tokens"),
        ({"include_prompt": "no"}, "has include_prompt 'no'"),
    ],
)
def test_an_unknown_pooling_is_refused(config: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        defined(plain(tmp_path, pooling=config))


def test_a_pooling_without_its_file_is_refused(tmp_path: Path) -> None:
    listed(tmp_path, f"{OLD}Transformer", f"{OLD}Pooling")
    with pytest.raises(DefinitionError, match=r"1_part/config\.json is missing"):
        defined(tmp_path)


def with_dense(folder: Path, **changes: Any) -> EmbedderDefinition:
    plain(folder, f"{OLD}Dense")
    write_json(folder / "2_part" / "config.json", {**dense(48, 32)[1], **changes})
    return defined(folder)


def test_a_dense_layer_sets_the_width(tmp_path: Path) -> None:
    found = with_dense(tmp_path)
    assert (found.modules, found.width(48), found.width(None)) == ("Dense:2_part", 32, 32)


def test_joined_poolings_multiply_the_width(tmp_path: Path) -> None:
    assert defined(plain(tmp_path, pooling={"pooling_mode": ["cls", "mean", "max"]})).width(48) == 144


def test_widths_that_do_not_follow_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="2_part expects 96 components, but 48 come"):
        with_dense(tmp_path, in_features=96).width(48)
    with pytest.raises(DefinitionError, match="its pooling expects 48 components, the model has 64"):
        with_dense(tmp_path).width(64)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings'"),
        ({"module_output_name": "other"}, "module_output_name 'other'"),
        ({"out_features": 0}, "out_features 0"),
        ({"in_features": "48"}, "in_features '48'"),
        ({"bias": "yes"}, "is no configuration of a Dense module"),
    ],
)
def test_a_dense_layer_of_another_kind_is_refused(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        with_dense(tmp_path, **changes)


def told(folder: Path, **content: Any) -> EmbedderDefinition:
    write_json(plain(folder) / "sentence_bert_config.json", content)
    return defined(folder)


def test_the_transformers_own_file_says_how_texts_are_tokenised(tmp_path: Path) -> None:
    found = told(tmp_path, max_seq_length=128, do_lower_case=True)
    assert (found.max_seq_length, found.lower_case) == (128, True)


def test_a_length_among_the_tokenizers_arguments_comes_first(tmp_path: Path) -> None:
    assert told(tmp_path, max_seq_length=128, tokenizer_args={"model_max_length": 64}).max_seq_length == 64


def test_keys_of_newer_files_that_change_no_number_are_passed_over(tmp_path: Path) -> None:
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    found = told(
        tmp_path,
        transformer_task="feature-extraction",
        modality_config={"text": text, "message": {**text, "format": "structured"}},
        module_output_name="token_embeddings",
        unpad_inputs=False,
        model_args={"torch_dtype": "bfloat16"},
        query_length=None,
    )
    assert found == defined(plain(tmp_path / "bare"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'"),
        ({"modality_config": {"image": {}}}, "modality_config text None"),
        ({"modality_config": {"text": {"method": "get_text_features"}}}, "get_text_features"),
        ({"query_length": 32}, "has query_length, which is not served"),
        ({"processing_kwargs": {"text": {"padding": "max_length"}}}, "has processing_kwargs"),
        ({"config_args": {"is_causal": False}}, "has is_causal in config_args"),
        ({"tokenizer_args": {"add_eos_token": True}}, "has add_eos_token in tokenizer_args"),
        ({"max_seq_length": "many"}, "max_seq_length 'many'"),
        ({"do_lower_case": "yes"}, "do_lower_case 'yes'"),
    ],
)
def test_what_would_change_numbers_is_refused_by_name(content: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        told(tmp_path, **content)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"prompts": ["query: "]}, "no prompts that are strings by name"),
        ({"prompts": {"query": 1}}, "no prompts that are strings by name"),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "other"}, "'other', which is none of its prompts"),
        ([], "no prompts that are strings by name"),
    ],
)
def test_prompts_that_are_none_are_refused(content: Any, complaint: str, tmp_path: Path) -> None:
    if content == []:
        content = ["no object"]
    write_json(plain(tmp_path) / "config_sentence_transformers.json", content)
    with pytest.raises(DefinitionError, match=complaint):
        defined(tmp_path)


def test_what_matters_is_said_in_words(tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query"}
    write_json(tmp_path / "config_sentence_transformers.json", prompts)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": True})
    said = summary_of(with_dense(tmp_path))
    assert said == (
        'lower-cased; 64 tokens; mean pooling; Dense:2_part; not normalised; prompts query "q: "; default prompt query'
    )


def test_a_default_prompt_that_every_checkpoint_has_is_empty(tmp_path: Path) -> None:
    write_json(plain(tmp_path) / "config_sentence_transformers.json", {"default_prompt_name": "document"})
    assert defined(tmp_path).default_prompt_name is None


def cut(folder: Path, kept: object, *behind: str) -> EmbedderDefinition:
    write_json(plain(folder, *behind) / "config_sentence_transformers.json", {"truncate_dim": kept})
    return defined(folder)


def test_a_number_of_components_is_part_of_what_is_defined(tmp_path: Path) -> None:
    assert summary_of(cut(tmp_path, 16)) == "mean pooling; not normalised; 16 components"
    assert cut(tmp_path, None) == defined(plain(tmp_path))


def test_vectors_are_normalised_before_they_are_cut_and_not_behind(tmp_path: Path) -> None:
    found = cut(tmp_path, 16, f"{OLD}Normalize")
    assert (found.modules, found.normalize, found.truncate_dim) == ("Normalize", False, 16)


@pytest.mark.parametrize("kept", [0, -8, True, "16", 16.0])
def test_a_number_of_components_that_is_none_is_refused(kept: object, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=f"truncate_dim {kept!r}; expected a whole number of at least 1"):
        cut(tmp_path, kept)


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("./1_part", "1_part"),
        ("1_part/", "1_part"),
        ("1 (cls)+é", "1 (cls)+é"),
        ("a//b", "a/b"),
        (".a", ".a"),
    ],
)
def test_a_path_is_any_folder_inside_the_checkpoint(path: str, folder: str, tmp_path: Path) -> None:
    listed(tmp_path, f"{OLD}Transformer", f"{OLD}Pooling", paths={f"{OLD}Pooling": path})
    write_json(tmp_path / folder / "config.json", MEAN)
    assert defined(tmp_path).pooling == "mean"
    assert listed_modules(file_finder(str(tmp_path)))[1].path == folder


def test_the_transformer_may_lie_in_the_checkpoints_own_folder_by_any_spelling(tmp_path: Path) -> None:
    kinds = f"{OLD}Transformer", f"{OLD}Pooling"
    for path in (".", "./"):
        listed(tmp_path, *kinds, paths={kinds[0]: path, kinds[1]: "1_part"})
        write_json(tmp_path / "1_part" / "config.json", MEAN)
        assert defined(tmp_path).pooling == "mean"


def test_no_word_on_prompts_tokens_pools_them_or_not_as_sentence_transformers_does(tmp_path: Path) -> None:
    assert defined(plain(tmp_path, pooling={**MEAN, "include_prompt": None})).include_prompt is False


def test_a_glu_halves_the_width(tmp_path: Path) -> None:
    assert with_dense(tmp_path, activation_function="torch.nn.modules.activation.GLU").width(48) == 16


def test_an_activation_that_is_not_served_is_refused_when_a_checkpoint_is_added(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"2_part/config\.json has activation_function 'torch\.nn\.PReLU'"):
        with_dense(tmp_path, activation_function="torch.nn.PReLU")
