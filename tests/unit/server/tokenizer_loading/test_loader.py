# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.tokenizer_loading.loader` and its kin: what is refused, and what no golden file shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer
from flagtriton_server.tokenize.unembedded_tokens import Unembedded
from flagtriton_server.tokenizer_loading.decoded_text import without_spaces_before_marks
from flagtriton_server.tokenizer_loading.files import TokenizerFiles
from flagtriton_server.tokenizer_loading.sentencepiece_conversion import piece_merges
from flagtriton_server.tokenizer_loading.sentencepiece_model import SentencePieceModel, model_message
from tests.support.checkpoints.tokenizer_layouts import LAYOUTS

VOCABULARY = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def checkpoint(folder: Path, template: str, tokenizer_config: dict[str, Any], **model_config: Any) -> str:
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [("<s>", 1), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    write(folder, "tokenizer.json", backend.to_str())
    write(folder, "tokenizer_config.json", tokenizer_config)
    write(folder, "config.json", {"model_type": "llama", "vocab_size": 5, **model_config})
    return str(folder)


def ids(folder: str, text: str = "a b") -> list[int]:
    (answer,) = TextTokenizer.from_checkpoint(folder, None, False).encode([TextBatch([text], 16)])
    assert not isinstance(answer, RequestError)
    return next(iter(answer.values()))[0].tolist()


def llama(**flags: Any) -> dict[str, Any]:
    return {"tokenizer_class": "LlamaTokenizer", **NAMES, **flags}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [1, 3, 4]),
        ({"add_eos_token": True}, [1, 3, 4, 2]),
        ({"add_bos_token": False}, [3, 4]),
        ({"add_bos_token": False, "add_eos_token": True}, [3, 4, 2]),
    ],
)
def test_a_llama_tokenizer_has_the_template_of_its_flags(
    flags: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    assert ids(checkpoint(tmp_path / "tiny", "<s> $A", llama(**flags))) == expected


@pytest.mark.parametrize(
    ("template", "flags", "expected"),
    [
        ("<s> $A </s>", {}, [1, 3, 4, 2]),
        ("$A", {}, [3, 4]),
        ("<s> $A", {"add_eos_token": True}, [1, 3, 4, 2]),
        ("$A </s>", {"add_bos_token": True}, [1, 3, 4, 2]),
        ("<s> $A </s>", {"add_eos_token": False}, [1, 3, 4]),
    ],
)
@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "TokenizersBackend"])
def test_a_file_of_transformers_5_keeps_its_template_unless_a_flag_is_given(
    template: str, flags: dict[str, Any], expected: list[int], tokenizer_class: str, tmp_path: Path
) -> None:
    config = {**llama(**flags), "tokenizer_class": tokenizer_class, "backend": "tokenizers"}
    assert ids(checkpoint(tmp_path / "tiny", template, config)) == expected


def test_a_flag_for_a_token_that_is_not_named_is_refused(tmp_path: Path) -> None:
    config = {"tokenizer_class": "LlamaTokenizer", "eos_token": None, "add_eos_token": True}
    with pytest.raises(ValueError, match="says add_eos_token, but names no eos_token"):
        ids(checkpoint(tmp_path / "tiny", "<s> $A", config))


def test_a_class_that_segments_words_is_refused_by_name(tmp_path: Path) -> None:
    LAYOUTS["bert-vocab-txt"].make(tmp_path / "tiny")
    write(tmp_path / "tiny", "tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(ValueError, match="BertJapaneseTokenizer, which cuts texts into words with MeCab"):
        TextTokenizer.from_checkpoint(str(tmp_path / "tiny"), None, False)


def test_a_class_whose_vocabulary_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    LAYOUTS["xlm-roberta-sentencepiece"].make(tmp_path / "tiny")
    write(tmp_path / "tiny", "tokenizer_config.json", {"tokenizer_class": "XLNetTokenizer"})
    with pytest.raises(ValueError, match=r"no tokenizer\.json, and sentencepiece\.bpe\.model cannot be read for XLNet"):
        TextTokenizer.from_checkpoint(str(tmp_path / "tiny"), None, False)


def test_the_class_decides_which_vocabulary_file_is_read(tmp_path: Path) -> None:
    LAYOUTS["xlm-roberta-sentencepiece"].make(tmp_path / "tiny")
    write(tmp_path / "tiny", "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(ValueError, match=r"neither tokenizer\.json nor vocab\.txt.*there: sentencepiece\.bpe\.model"):
        TextTokenizer.from_checkpoint(str(tmp_path / "tiny"), None, False)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MBartTokenizerFast", "the code of a language"),
        ("NllbTokenizer", "the code of a language"),
        ("LayoutLMv3TokenizerFast", "the words of a page"),
        ("PegasusTokenizer", "other tasks"),
        ("EsmTokenizer", "Python code"),
    ],
)
def test_a_class_whose_ids_no_rule_gives_is_refused_with_what_to_do(name: str, reason: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", "$A", {**llama(), "tokenizer_class": name})
    with pytest.raises(ValueError, match=f"{reason}.*not served; if .* set tokenizer_class .* to PreTrained"):
        ids(folder)
    write(tmp_path / "tiny", "tokenizer_config.json", {**llama(), "tokenizer_class": "PreTrainedTokenizerFast"})
    assert ids(folder) == [3, 4]


def test_a_class_of_python_is_served_from_a_file_of_transformers_5(tmp_path: Path) -> None:
    config = {**llama(), "tokenizer_class": "EsmTokenizer", "backend": "tokenizers"}
    assert ids(checkpoint(tmp_path / "tiny", "$A </s>", config)) == [3, 4, 2]


@pytest.mark.parametrize("flag", ["from_slow", "add_prefix_space"])
def test_a_flag_that_asks_for_a_vocabulary_nobody_reads_is_refused(flag: str, tmp_path: Path) -> None:
    config = {"tokenizer_class": "T5Tokenizer", flag: True}
    folder = LAYOUTS["t5-class"].make(tmp_path / "tiny")
    LAYOUTS["llama-sentencepiece"].write(folder)
    write(folder, "tokenizer_config.json", config)
    with pytest.raises(
        ValueError, match=rf"has {flag} in .*tokenizer\.model cannot be read for T5.* take that flag out"
    ):
        ids(str(folder))


def test_from_slow_without_the_classs_vocabulary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no .*tokenizer\.model.*there: none\); take from_slow out"):
        ids(checkpoint(tmp_path / "tiny", "$A", llama(from_slow=True)))


def test_a_number_of_extra_ids_that_is_not_that_of_the_tokens_is_refused(tmp_path: Path) -> None:
    config = {"tokenizer_class": "T5Tokenizer", "additional_special_tokens": ["<extra_id_0>"], "extra_ids": 2}
    with pytest.raises(ValueError, match=r"has 1 tokens <extra_id_…> .*extra_ids is 2; set extra_ids to 1"):
        ids(checkpoint(tmp_path / "tiny", "$A", config))


@pytest.mark.parametrize("layout", ["bert", "bert-vocab-txt"])
@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [("do_lower_case", None, "true or false"), ("strip_accents", "no", "true, false or null")],
)
def test_a_flag_that_is_no_boolean_is_refused_with_what_is_allowed(
    layout: str, flag: str, value: Any, allowed: str, tmp_path: Path
) -> None:
    folder = LAYOUTS[layout].make(tmp_path / "tiny")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", flag: value})
    with pytest.raises(ValueError, match=rf"{json.dumps(value)} for {flag}, which must be {allowed}; set it, or take"):
        ids(str(folder))


def test_a_byte_order_mark_is_told_with_its_file(tmp_path: Path) -> None:
    folder = LAYOUTS["roberta-vocab-json"].make(tmp_path / "tiny")
    content = (folder / "vocab.json").read_text(encoding="utf-8")
    (folder / "vocab.json").write_text(content, encoding="utf-8-sig")
    with pytest.raises(ValueError, match=r"vocab\.json begins with a byte order mark; save it as UTF-8 without one"):
        ids(str(folder))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("vocab.json", "{", r"vocab\.json and .*merges\.txt cannot be read"),
        ("vocab.json", '{"a": 0}', "out of vocabulary"),
        ("merges.txt", "#version\na b c\n", r"merges\.txt has the line 'a b c', which is no pair"),
    ],
)
def test_damaged_byte_level_files_are_named(name: str, content: str, told: str, tmp_path: Path) -> None:
    folder = LAYOUTS["roberta-vocab-json"].make(tmp_path / "tiny")
    write(folder, name, content)
    with pytest.raises(ValueError, match=f"{told}.* download"):
        ids(str(folder))


def test_flags_that_hide_an_added_token_are_refused(tmp_path: Path) -> None:
    folder = LAYOUTS["bert"].make(tmp_path / "tiny")
    backend = Tokenizer.from_file(f"{folder}/tokenizer.json")
    backend.add_tokens(["MiXeD"])
    backend.save(f"{folder}/tokenizer.json")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    with pytest.raises(ValueError, match=r"do_lower_case, .* changes how 'MiXeD' is normalised.* set them as in"):
        ids(str(folder))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    assert backend.token_to_id("MiXeD") in ids(str(folder), "a MIXED a")


@pytest.mark.parametrize("content", ["", "version https://git-lfs.github.com/spec/v1", "{}", '{"model": 1}'])
def test_a_damaged_tokenizer_json_is_named(content: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", "$A", llama())
    write(tmp_path / "tiny", "tokenizer.json", content)
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read .*download it again"):
        ids(folder)


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x0a\xff\xff"])
def test_a_file_that_is_no_sentencepiece_model_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.model is .*SentencePiece model.*download it again"):
        SentencePieceModel.read(tmp_path / "tokenizer.model")


def test_a_sentencepiece_model_of_words_is_refused(tmp_path: Path) -> None:
    folder = LAYOUTS["xlm-roberta-sentencepiece"].make(tmp_path / "tiny")
    message = model_message()()
    message.ParseFromString((folder / "sentencepiece.bpe.model").read_bytes())
    message.trainer_spec.model_type = 3
    (folder / "sentencepiece.bpe.model").write_bytes(message.SerializeToString())
    with pytest.raises(ValueError, match="trained as model type 3; only unigram"):
        TextTokenizer.from_checkpoint(str(folder), None, False)


def test_merges_come_best_score_first_and_then_with_the_longer_left_part() -> None:
    vocabulary = [("a", -9.0), ("b", -9.0), ("ab", -2.0), ("ba", -1.0), ("aba", -3.0)]
    assert piece_merges(vocabulary) == [("b", "a"), ("a", "b"), ("ab", "a"), ("a", "ba")]


def test_a_local_tokenizer_is_read_without_transformers_and_torch(tmp_path: Path) -> None:
    folder = LAYOUTS["mistral-eos-flag"].make(tmp_path / "tiny")
    program = (
        "import sys; from flagtriton_server.tokenize.text_tokenizer import TextTokenizer; "
        f"TextTokenizer.from_checkpoint({str(folder)!r}, None, False); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(("where", "side"), [("file", "left"), ("config", "right"), ("neither", "right")])
def test_the_truncation_side_is_the_configurations_or_else_the_files(where: str, side: str, tmp_path: Path) -> None:
    config = llama(add_bos_token=False, **({"truncation_side": "right"} if where == "config" else {}))
    folder = checkpoint(tmp_path / "tiny", "$A", config)
    if where != "neither":
        backend = Tokenizer.from_file(f"{folder}/tokenizer.json")
        backend.enable_truncation(99, direction="left")
        backend.save(f"{folder}/tokenizer.json")
    (answer,) = TextTokenizer.from_checkpoint(folder, None, False).encode([TextBatch(["a b"], 1)])
    assert not isinstance(answer, RequestError)
    assert next(iter(answer.values())).tolist() == [[4 if side == "left" else 3]]


def test_the_own_code_of_a_tokenizer_is_found_in_all_its_spellings() -> None:
    spellings = [["a.Slow", "a.Fast"], ["a.Slow", None], "a.Fast", {"AutoTokenizer": ["x--a.Slow", "x/y--a.Fast"]}, {}]
    found = [TokenizerFiles("x", config={"auto_map": spelling}).own_code for spelling in spellings]
    assert found == ["a.Fast", "a.Slow", "a.Fast", "a.Fast", None]


def test_decoded_texts_lose_the_spaces_before_marks() -> None:
    assert (
        without_spaces_before_marks("it 's here , is n't it ? rock ' n roll .") == "it's here, isn't it? rock'n roll."
    )


def test_tokens_without_an_embedding_are_told_with_both_numbers(tmp_path: Path) -> None:
    config = llama(pad_token="[PAD]", additional_special_tokens=["[X]"])
    unembedded = TextTokenizer.from_checkpoint(checkpoint(tmp_path / "tiny", "$A", config), None, False).unembedded
    assert unembedded == Unembedded({5: "[PAD]", 6: "[X]"}, 5)
    assert unembedded.warning.startswith("the tokenizer has 2 tokens without an embedding, '[PAD]' (id 5) the first")
    assert "the model has 5 embeddings" in unembedded.warning


def test_a_text_with_such_a_token_is_refused_by_its_place(tmp_path: Path) -> None:
    unembedded = Unembedded({5: "[PAD]"}, 5)
    unembedded.check(np.array([[4, -1], [3, 4]], np.int32), "text")
    with pytest.raises(RequestError, match=r"text 1 contains the token '\[PAD\]' \(id 5\).*embeddings of 5 tokens"):
        unembedded.check(np.array([[4, -1], [3, 5]], np.int32), "text")


def test_a_tokenizer_whose_tokens_all_have_embeddings_has_no_such_tokens(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "tiny", "$A", llama())
    assert TextTokenizer.from_checkpoint(folder, None, False).unembedded is None
