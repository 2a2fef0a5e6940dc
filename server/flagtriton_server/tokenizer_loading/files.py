# SPDX-License-Identifier: Apache-2.0
"""The files of a checkpoint's tokenizer, read from a local folder or the hub's cache. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flagtriton_server.checkpoint.lookup import FileFinder, FilesUnavailableError, file_finder

__all__ = ["TOKENIZER_JSON", "TokenizerFiles"]

TOKENIZER_JSON: Final = "tokenizer.json"
VOCABULARY_FILES: Final = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
"""Files from which tokenizers are built if there is no `tokenizer.json`."""


@dataclass(frozen=True)
class TokenizerFiles:
    """The content of a checkpoint's tokenizer files.

    Attributes:
        checkpoint: local folder or hub name, for messages.
        config: `tokenizer_config.json`; empty if there is none.
        model_config: `config.json`.
        special_tokens_map: `special_tokens_map.json`, which transformers before 4.34 wrote; empty if there is none.
        added_tokens: `added_tokens.json`, which transformers before 4.34 wrote: ids by token; empty if there is none.
        tokenizer_json: path of `tokenizer.json`, if there is one.
        vocabulary: paths of other vocabulary files, by file name.
    """

    checkpoint: str
    config: Mapping[str, Any] = field(default_factory=dict)
    model_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_map: Mapping[str, Any] = field(default_factory=dict)
    added_tokens: Mapping[str, int] = field(default_factory=dict)
    tokenizer_json: Path | None = None
    vocabulary: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def find(cls, checkpoint: str, revision: str | None) -> TokenizerFiles:
        """Return the tokenizer files of a local folder or hub name.

        Raises:
            OSError: the folder or hub name does not exist or has no `config.json`. Or the hub does not answer, and its
                cache lacks `config.json` or a file that all tokenizers are read from.
            ValueError: a file is no JSON object.
        """
        find = file_finder(checkpoint, revision)
        model_config = find("config.json")
        if model_config is None:
            raise OSError(f"{checkpoint} has no config.json, so it is no checkpoint; name the folder that has one")
        tokenizer_json = find(TOKENIZER_JSON)
        config = _json(find("tokenizer_config.json"))
        # The effect of add_prefix_space and from_slow depends on the other vocabulary files.
        reads_more = tokenizer_json is None or any(
            config.get(flag) is not None for flag in ("add_prefix_space", "from_slow")
        )
        names = VOCABULARY_FILES if reads_more else ()
        found = {name: _found(find, name) for name in names}
        return cls(
            checkpoint,
            config=config,
            model_config=_json(model_config),
            special_tokens_map=_json(_found(find, "special_tokens_map.json")),
            added_tokens=_json(_found(find, "added_tokens.json")),
            tokenizer_json=tokenizer_json,
            vocabulary={name: path for name, path in found.items() if path is not None},
        )

    def vocabulary_file(self, *names: str) -> Path:
        """Return the path of the first of several vocabulary files that exists.

        Raises:
            ValueError: none of them exists; the message lists the files that do.
        """
        for name in names:
            if name in self.vocabulary:
                return self.vocabulary[name]
        there = ", ".join(self.vocabulary) or "none"
        lacks = f"neither {TOKENIZER_JSON} nor" if self.tokenizer_json is None else "no"
        advice = "" if self.tokenizer_json is None else "take from_slow out of tokenizer_config.json, or "
        raise ValueError(
            f"{self.checkpoint} has {lacks} {' or '.join(names)}, which its tokenizer class reads (vocabulary files "
            f"there: {there}); {advice}copy the tokenizer's files from the checkpoint it was made from"
        )

    def flag(self, name: str, default: bool | None) -> bool | None:
        """Return a flag of `tokenizer_config.json`.

        Raises:
            ValueError: the flag is neither true nor false; null is allowed if it is the default.
        """
        value = self.config.get(name, default)
        if isinstance(value, bool) or (value is None and default is None):
            return value
        allowed = "true, false or null" if default is None else "true or false"
        raise ValueError(
            f"{self.checkpoint}: tokenizer_config.json has {json.dumps(value)} for {name}, which must be {allowed}; "
            f"set it, or take it out for {json.dumps(default)}"
        )

    @property
    def own_code(self) -> str | None:
        """The tokenizer class whose code is in the checkpoint, as `module.Name`, or None."""
        auto_map = self.config.get("auto_map", self.model_config.get("auto_map"))
        named = auto_map.get("AutoTokenizer") if isinstance(auto_map, Mapping) else auto_map
        classes = [named] if isinstance(named, str) else [name for name in reversed(named or []) if name]
        return str(classes[0]).rpartition("--")[2] if classes else None

    @property
    def saved_by_5(self) -> bool:
        """Whether transformers 5 wrote the files; all flags are then already applied in `tokenizer.json`."""
        return "backend" in self.config


def _found(find: FileFinder, name: str) -> Path | None:
    """Return a file that few checkpoints have, or None if the cache alone cannot show whether it exists."""
    try:
        return find(name)
    except FilesUnavailableError:
        return None


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object; download it again")
    return content
