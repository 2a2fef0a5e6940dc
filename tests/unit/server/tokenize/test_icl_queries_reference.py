# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.tokenize.icl_queries` beside FlagEmbedding: the token ids that its `FlagICLModel` would run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flagtriton.protocol.examples import DEFAULT_EXAMPLE_FORMAT, DEFAULT_SUFFIX, examples_prefix
from flagtriton.protocol.instructions import apply_instruction
from flagtriton.protocol.tensors import INPUT_IDS, TOKEN_COUNT
from flagtriton_server.tokenize.icl_queries import QueryBatch, encode_queries
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from tests.support.checkpoints.tiny import TEXTS, cuts_left, make_bert, make_decoder, make_xlm_roberta

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

TAGS = ["<instruct>", "<query>", "<response>"]
QUERIES = [
    *TEXTS,
    "  two leading spaces",
    "trailing ",
    "\n",
    "stops </s> and goes on",
    "tags <query>inside\n<response>of it <instruct>",
    "<response>first",
    "👩‍👩‍👧‍👦 of several scalars",
    "do n't clean , this up .",
]
EXAMPLES = [
    {"instruct": "Find a text.", "query": "what is 向量?", "response": "A point 🙂."},
    {"query": "only a query"},
    {},
]
INSTRUCTION_FORMAT = "<instruct>{}\n<query>{}"


class Tokenised(Exception):  # noqa: N818 - no error: it stops FlagEmbedding before its model runs
    """Says that all tokens are known."""


class Recorder:
    """A tokenizer that keeps the ids which its last call returned."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        encoding = self._tokenizer(*arguments, **options)
        self.ids: list[list[int]] = encoding["input_ids"]
        return encoding


class Both:
    """One checkpoint's tokenizer, ours and FlagEmbedding's."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoTokenizer

        self.ours = TextTokenizer.from_checkpoint(str(checkpoint), None, False)
        self._theirs = AutoTokenizer.from_pretrained(checkpoint)

    def reference_ids(self, prefix: str, suffix: str, max_length: int, instruction: str | None) -> list[list[int]]:
        """Return the ids that FlagEmbedding makes of `QUERIES`, without its model."""
        from FlagEmbedding import FlagICLModel

        recorder = Recorder(self._theirs)
        model = SimpleNamespace(float=lambda: None, to=lambda _: None, eval=lambda: None)
        theirs = SimpleNamespace(
            model=model,
            tokenizer=recorder,
            prefix=prefix,
            suffix=suffix,
            query_instruction_for_retrieval=instruction,
            query_instruction_format=INSTRUCTION_FORMAT,
            get_detailed_instruct=FlagICLModel.get_detailed_instruct,
        )
        with pytest.raises(Tokenised):
            FlagICLModel.encode_queries_single_device(theirs, QUERIES, max_length=max_length, device="cpu")
        return recorder.ids

    def our_ids(self, prefix: str, suffix: str, max_length: int, instruction: str | None) -> list[list[int]]:
        texts = QUERIES
        if instruction is not None:
            texts = [apply_instruction(INSTRUCTION_FORMAT, instruction, text) for text in texts]
        answer = encode_queries(self.ours, QueryBatch(texts, prefix, suffix, max_length, 10**6))
        rows = zip(answer[INPUT_IDS].tolist(), answer[TOKEN_COUNT][:, 0].tolist(), strict=True)
        return [row[:count] for row, count in rows]


@pytest.fixture(autouse=True)
def stopped_before_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Tokenised

    monkeypatch.setattr("FlagEmbedding.inference.embedder.decoder_only.icl.pad_with_compat", stop)


def cleans_up(checkpoint: Path) -> Path:
    """Have a tokenizer close the spaces before punctuation in texts it makes of tokens; of BPE none does."""
    file = checkpoint / "tokenizer_config.json"
    content = {**json.loads(file.read_text(encoding="utf-8")), "clean_up_tokenization_spaces": True}
    file.write_text(json.dumps(content), encoding="utf-8")
    return checkpoint


def made(kind: str, folder: Path) -> Path:
    if kind == "bert":
        return make_bert(folder)
    if kind == "xlm-roberta":
        return make_xlm_roberta(folder)
    if kind == "bert, cleaned up":
        return cleans_up(make_bert(folder))
    if kind == "BPE, not cleaned up":
        return cleans_up(make_decoder(folder, "mistral", added=TAGS))
    template, _, tagged = kind.partition(", ")
    return make_decoder(folder, "mistral", template=template, added=TAGS if tagged else ())


KINDS = [
    "<s> $A </s>, tags",
    "<s> $A </s>",
    "$A </s>, tags",
    "$A </s>",
    "<s> $A, tags",
    "<s> $A",
    "bert",
    "bert, cleaned up",
    "BPE, not cleaned up",
    "xlm-roberta",
]


SIDES = [*((kind, "right") for kind in KINDS), *((kind, "left") for kind in (KINDS[0], KINDS[3], "xlm-roberta"))]


@pytest.fixture(scope="module", params=SIDES, ids=str)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    (kind, side), folder = request.param, tmp_path_factory.mktemp("icl")
    checkpoint = made(kind, folder / "right")
    return Both(checkpoint if side == "right" else cuts_left(checkpoint, folder / "left"))


@pytest.mark.parametrize("examples", [None, 0, 1, 3])
@pytest.mark.parametrize("suffix", ["", DEFAULT_SUFFIX])
@pytest.mark.parametrize("instruction", [None, "Find what answers it."])
def test_queries_have_the_references_tokens(
    both: Both, examples: int | None, suffix: str, instruction: str | None
) -> None:
    prefix = examples_prefix(None if examples is None else EXAMPLES[:examples], DEFAULT_EXAMPLE_FORMAT, instruction)
    least = both.ours.bare_count("<s>") + both.ours.bare_count(f"{suffix}</s>")  # which cuts a query to nothing
    for max_length in (least, least + 1, least + 9, 64, 512):
        asked = (prefix, suffix, max_length, instruction)
        assert both.our_ids(*asked) == both.reference_ids(*asked)


def test_tags_that_the_tokenizer_lacks_are_ordinary_text(tmp_path: Path) -> None:
    tagged, plain = (Both(made(kind, tmp_path / kind[-4:])).ours for kind in ("<s> $A </s>, tags", "<s> $A </s>"))
    assert tagged.bare_count("<response>") == 1
    assert plain.bare_count("<response>") > 1
