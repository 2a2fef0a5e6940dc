# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.tokenizer_backend` and its kin: what is refused, and what no golden file shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from flagtriton_server.decoded_text import without_spaces_before_marks
from flagtriton_server.rejection import RequestError
from flagtriton_server.sentencepiece_conversion import piece_merges
from flagtriton_server.sentencepiece_model import SentencePieceModel, model_message
from flagtriton_server.tokenization import TextBatch, TextTokenizer
from flagtriton_server.tokenizer_files import TokenizerFiles
from flagtriton_server.unembedded import Unembedded
from tests.tokenizer_layouts import LAYOUTS

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


def test_a_class_that_is_told_a_language_is_refused_by_name(tmp_path: Path) -> None:
    LAYOUTS["xlm-roberta"].make(tmp_path / "tiny")
    write(tmp_path / "tiny", "tokenizer_config.json", {"tokenizer_class": "NllbTokenizerFast"})
    with pytest.raises(ValueError, match="tokenised by NllbTokenizer, which puts the token of a language"):
        TextTokenizer.from_checkpoint(str(tmp_path / "tiny"), None, False)


def test_a_flag_that_is_neither_true_nor_false_is_named(tmp_path: Path) -> None:
    LAYOUTS["bert"].make(tmp_path / "tiny")
    write(tmp_path / "tiny", "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": None})
    with pytest.raises(ValueError, match=r"tiny: tokenizer_config\.json says .*'do_lower_case': None.*true or false"):
        TextTokenizer.from_checkpoint(str(tmp_path / "tiny"), None, False)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("vocab.json", "\ufeff{}", r"vocab\.json cannot be read as a vocabulary .*BOM"),
        ("vocab.json", "[1]", r"vocab\.json cannot be read as a vocabulary"),
        ("merges.txt", "#version: 0.2\na b c\n", r"merges\.txt has a line 'a b c', expected two tokens"),
    ],
)
def test_damaged_vocabulary_files_are_named(name: str, content: str, told: str, tmp_path: Path) -> None:
    LAYOUTS["roberta-vocab-json"].make(tmp_path / "tiny")
    write(tmp_path / "tiny", name, content)
    with pytest.raises(ValueError, match=told):
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
        "import sys; from flagtriton_server.tokenization import TextTokenizer; "
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
