# SPDX-License-Identifier: Apache-2.0
"""Facts about a checkpoint that need no loading: from its files, or from the model table by its name."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagtriton.checkpoints import EMBEDDERS, RERANKERS, checkpoint_name
from flagtriton.protocol.architectures import architecture_of, position_capacity
from flagtriton.protocol.model_classes import MODEL_CLASSES
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton_server.checkpoint.files import two_sets_of_weights
from flagtriton_server.checkpoint.weight_files import WEIGHT_FILES, adapter_base, unread_weights, weights_entry
from flagtriton_tools.deploy.sentence_transformers_files import Reading, check_transformer_place, read_files
from flagtriton_tools.errors import ToolError

__all__ = ["CheckpointFacts", "adapter_source", "inspect_checkpoint", "with_definition"]

_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "vocab.json",
)
_POOLINGS = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last_token",
}
"""Pooling names of sentence-transformers to FlagEmbedding's. Older files put `pooling_mode_` before the name."""

_HIDDEN_SIZES = ("hidden_size", "dim", "d_model", "n_embd")
"""Keys under which the configurations of architectures store the hidden size D."""

_CLASS_OF_ARCHITECTURE = {name: row for row in MODEL_CLASSES.values() for name in row.architectures}
"""Architectures of rerankers whose checkpoints bring code that flagtriton does not need, to their model class."""

_TABLE = "the model table"
_NAME_ALONE = "its name alone"
_M3_HEADS = ("sparse_linear", "colbert_linear")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NO_LIMIT = 10**9
"""Lengths from here on mean no limit: tokenizers without a maximum length report a far larger number."""


@dataclass(frozen=True)
class CheckpointFacts:
    """Known facts of a checkpoint. A fact is None if it is unknown and the user has to state it.

    Attributes:
        source: absolute path, or the hub name as the user gave it.
        name: default name of the deployment.
        max_length: number of tokens that the model has positions for.
        model_type: transformers' name of the architecture.
        labels: number of labels of a reranker's classification head.
        unknown_pooling: pooling that the checkpoint names and that FlagEmbedding does not have.
        trust_remote_code: True if the checkpoint needs its own Python code.
        class_by_files: True if the model class comes from the files and not from the model table.
        known_from: source of the facts, for messages.
        reading: content of sentence-transformers' files, if they were read.
    """

    source: str
    name: str
    known_from: str
    task: str | None = None
    model_class: str | None = None
    pooling_method: str | None = None
    hidden_size: int | None = None
    max_length: int | None = None
    model_type: str | None = None
    labels: int | None = None
    unknown_pooling: str | None = None
    query_instruction_format: str = "{}{}"
    trust_remote_code: bool = False
    class_by_files: bool = False
    reading: Reading | None = None

    @property
    def by_table(self) -> bool:
        """Whether the model table has the name."""
        return self.known_from == _TABLE

    @property
    def name_alone(self) -> bool:
        """Whether only a hub name is known."""
        return self.known_from == _NAME_ALONE


def inspect_checkpoint(path_or_name: str) -> CheckpointFacts:
    """Return the facts of a local folder or a hub name.

    Raises:
        ToolError: the path does not exist or is no checkpoint. The message names the missing files.
    """
    path = Path(path_or_name).expanduser()
    if path_or_name and path.is_dir():
        return _local(path.resolve(), checkpoint_name(path_or_name))
    if path_or_name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(path_or_name):
        raise ToolError(
            f"{path_or_name or 'the empty name'} is no folder; "
            "name a checkpoint's folder, or a hub name such as BAAI/bge-m3"
        )
    if len(path.parts) > 1 and Path(path.parts[0]).is_dir():
        raise ToolError(f"{path_or_name} does not exist; there is a folder {path.parts[0]}, so this is no hub name")
    return _by_table(CheckpointFacts(path_or_name, checkpoint_name(path_or_name), _NAME_ALONE))


def adapter_source(path_or_name: str) -> str:
    """Return the absolute path of a PEFT adapter's folder, or its hub name as given.

    Raises:
        ToolError: it is neither, or the folder holds no adapter.
    """
    path = Path(path_or_name).expanduser()
    if not path_or_name or not path.is_dir():
        if path_or_name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(path_or_name):
            raise ToolError(f"--peft is {path_or_name!r}, which is no folder and no hub name")
        return path_or_name
    if not (path / "adapter_config.json").is_file():
        raise ToolError(f"--peft is {path_or_name}, which holds no adapter_config.json; name the adapter's own folder")
    return str(path.resolve())


def _by_table(facts: CheckpointFacts) -> CheckpointFacts:
    known = _table_name(facts)
    if known in RERANKERS:
        reranker = RERANKERS[known]
        return replace(
            facts,
            known_from=_TABLE,
            task="rerank",
            model_class=reranker.model_class.value,
            hidden_size=facts.hidden_size or reranker.hidden_size,
            max_length=facts.max_length or reranker.max_length,
            trust_remote_code=reranker.trust_remote_code or reranker.needs_code,
        )
    if known not in EMBEDDERS:
        return facts
    embedder = EMBEDDERS[known]
    return replace(
        facts,
        known_from=_TABLE,
        task="embed",
        model_class=embedder.model_class.value,
        pooling_method=embedder.pooling_method.value,
        hidden_size=facts.hidden_size or embedder.hidden_size,
        max_length=facts.max_length or embedder.max_length,
        query_instruction_format=embedder.query_instruction_format,
        trust_remote_code=embedder.trust_remote_code,
    )


def _table_name(facts: CheckpointFacts) -> str:
    """Return the name in the model table, or an empty string. The given name comes before the name of its folder.

    Case does not count, because no two published names differ in case alone.
    """
    published = {name.casefold(): name for name in (*EMBEDDERS, *RERANKERS)}
    names = (facts.name, checkpoint_name(facts.source))
    return next((published[name.casefold()] for name in names if name.casefold() in published), "")


def _local(path: Path, name: str) -> CheckpointFacts:
    _check_is_snapshot(path)
    check_transformer_place(path)
    _check_files(path)
    config = _read_json(path / "config.json")
    facts = CheckpointFacts(
        source=str(path),
        name=name,
        known_from="its config.json",
        hidden_size=next((config[key] for key in _HIDDEN_SIZES if key in config), None),
        max_length=_max_length(path, config),
        model_type=config.get("model_type"),
        labels=len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2),
    )
    by_table = _by_table(facts)
    if by_table.task is not None:
        return replace(by_table, reading=read_files(str(path), by_table=True))
    task, model_class = _classify(path, config)
    own_code = "auto_map" in config and model_class not in {row.name for row in _CLASS_OF_ARCHITECTURE.values()}
    facts = replace(facts, trust_remote_code=own_code, class_by_files=model_class is not None)
    names = _pooling_names(path)
    method = _POOLINGS.get(names[0]) if len(names) == 1 else None
    unknown = ", ".join(names) if names and method is None else None
    facts = replace(facts, task=task, model_class=model_class, pooling_method=method, unknown_pooling=unknown)
    return with_definition(facts, read_files(str(path)), position_capacity(config))


def with_definition(facts: CheckpointFacts, reading: Reading, capacity: int | None) -> CheckpointFacts:
    """Return the facts with the pooling of sentence-transformers' files, and with lengths beyond the tokenizer's.

    A checkpoint with a pooling is an embedder. It is an encoder if the pooling is not `last_token`.
    """
    defined = reading.definition
    if defined is None or defined.pooling is None:
        return replace(facts, reading=reading)
    most = facts.max_length
    if defined.max_seq_length is not None and (most is not None or defined.max_seq_length > DEFAULT_MAX_LENGTH):
        most = max(most or 0, min(defined.max_seq_length, capacity or defined.max_seq_length))
    encoder = None if defined.pooling == "last_token" else "encoder-only-base"
    return replace(
        facts,
        reading=reading,
        task=facts.task or "embed",
        model_class=facts.model_class or encoder,
        pooling_method=defined.pooling,
        unknown_pooling=None,
        max_length=most,
    )


def _check_is_snapshot(path: Path) -> None:
    """Raise for the folder of a whole repository in the Hub's cache, which holds one checkpoint per revision."""
    snapshots = path / "snapshots"
    if (path / "config.json").is_file() or not snapshots.is_dir():
        return
    main = path / "refs" / "main"
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    names = sorted(folder.name for folder in snapshots.iterdir() if folder.is_dir())
    chosen = revision if revision in names else "".join(names[:1]) or "REVISION"
    raise ToolError(
        f"{path} is a repository's folder in the Hub's cache; name one of its snapshots: {snapshots / chosen}"
    )


def _check_files(path: Path) -> None:
    _check_adapter(path)
    needed = {"config.json": ("config.json",), "weights": WEIGHT_FILES, "a tokenizer": _TOKENIZERS}
    for what, names in needed.items():
        if not any((path / name).is_file() for name in names) and not (what == "weights" and weights_entry(path)):
            others = unread_weights(path) if what == "weights" else None
            raise ToolError(
                f"{path} is no checkpoint: {what} missing (looked for {', '.join(names)})"
                + (f"; {others}" if others else "")
            )


def _check_adapter(path: Path) -> None:
    base = adapter_base(path)
    if base is None:
        return
    if weights_entry(path) is not None:
        raise ToolError(two_sets_of_weights(path, base))
    checkpoint = "BASE" if " " in base else base
    raise ToolError(
        f"{path} holds a PEFT adapter of {base}, without that model's weights; add the base and name the adapter: "
        f"flagtriton add {checkpoint} --peft {shlex.quote(str(path))} --repository REPOSITORY"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ToolError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ToolError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def _max_length(path: Path, config: dict[str, Any]) -> int | None:
    limits = [position_capacity(config)]
    if (path / "tokenizer_config.json").is_file():
        limits.append(_read_json(path / "tokenizer_config.json").get("model_max_length"))
    known = [int(limit) for limit in limits if isinstance(limit, (int, float)) and limit < _NO_LIMIT]
    return min(known, default=None)


def _classify(path: Path, config: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return task and model class, each None if the files do not settle it."""
    architecture = next(iter(config.get("architectures") or [""]))
    if any((path / f"{head}.{suffix}").is_file() for head in _M3_HEADS for suffix in ("pt", "safetensors")):
        return "embed", "encoder-only-m3"  # if one of the heads is missing, loading fails with a message
    if architecture.endswith("ForSequenceClassification"):
        return "rerank", "encoder-only-base"
    if architecture in _CLASS_OF_ARCHITECTURE:
        row = _CLASS_OF_ARCHITECTURE[architecture]
        return row.task, row.name.value
    known = architecture_of(config.get("model_type"))
    if architecture.endswith(("ForCausalLM", "ForMaskedLM")):  # embedders and rerankers both use these classes
        return None, "decoder-only-base" if known.decoder and architecture.endswith("ForCausalLM") else None
    if architecture.endswith("Model"):
        return "embed", "encoder-only-base" if known.encoder else "decoder-only-base" if known.decoder else None
    return None, None


def _pooling_names(path: Path) -> list[str]:
    """Return the poolings that `1_Pooling/config.json` of sentence-transformers switches on."""
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return []
    content = _read_json(file)
    if "pooling_mode" in content:
        return [str(content["pooling_mode"])]
    prefix = "pooling_mode_"
    return [key.removeprefix(prefix) for key, value in content.items() if key.startswith(prefix) and value is True]
