# SPDX-License-Identifier: Apache-2.0
"""The special tokens and other added tokens of a checkpoint, from the four files that may name them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from flagtriton_server.tokenizer_loading.classes import TokenizerClass
from flagtriton_server.tokenizer_loading.files import TokenizerFiles

__all__ = ["SpecialTokens"]

_NAMES: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FURTHER: Final = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class SpecialTokens:
    """The added tokens of a checkpoint.

    Attributes:
        named: special tokens by name, such as `cls_token`; a plain string has the usual flags.
        further: special tokens without a name.
        added: all added tokens with their flags, by id.
    """

    named: Mapping[str, str | AddedToken]
    further: list[str | AddedToken]
    added: Mapping[int, AddedToken]

    @classmethod
    def of(cls, files: TokenizerFiles, row: TokenizerClass) -> SpecialTokens:
        """Return the tokens of a checkpoint, given the row of its tokenizer class.

        Raises:
            ValueError: an entry is no token, or `tokenizer.json` cannot be read.
        """
        config = dict(files.config)
        added = {int(index): _added_token(token) for index, token in config.get("added_tokens_decoder", {}).items()}
        if "added_tokens_decoder" not in config:  # as before transformers 4.34
            config.update(_of_map(files.special_tokens_map, config))
            added = _legacy_added_tokens(files, config)
        by_text = {token.content: token for token in added.values()}
        named = {name: _named(name, config, row, by_text) for name in _NAMES}
        further = _further(files.checkpoint, config, TokenizerClass() if files.saved_by_5 else row)
        return cls({name: token for name, token in named.items() if token is not None}, further, added)

    @property
    def texts(self) -> dict[str, str]:
        """The named tokens as texts."""
        return {name: _text(token) for name, token in self.named.items()}

    def add_to(self, backend: Tokenizer) -> None:
        """Add the tokens that a Rust tokenizer lacks, or has with other flags, as transformers 4 did."""
        there = list(backend.get_added_tokens_decoder().values())
        flags = {repr(token) for token in there}
        tokens = [token for _, token in sorted(self.added.items()) if repr(token) not in flags]
        known = {token.content for token in (*there, *tokens)}
        for token in self.all:  # a plain string is added if missing; a token with flags always
            if isinstance(token, AddedToken):
                tokens.append(token)
            elif token not in known:
                tokens.append(AddedToken(token, special=True))
        special = {_text(token) for token in self.all}
        for token in tokens:
            token.special = token.special or token.content in special
        backend.add_tokens(_as_first_normalized(there, tokens))

    @property
    def all(self) -> list[str | AddedToken]:
        """The special tokens, named tokens first."""
        return [*self.named.values(), *self.further]


def _further(checkpoint: str, config: Mapping[str, Any], row: TokenizerClass) -> list[str | AddedToken]:
    """Return the special tokens that have none of the usual names."""
    given = {"additional_special_tokens": row.additional, **config}
    found = [token for key in _FURTHER for token in _listed(given.get(key))]
    found += [token for flag, default in row.further.items() if (token := _token(config.get(flag, default)))]
    if row.numbered is None:
        return found
    count = row.numbered.count if row.numbered.flag is None else int(config.get(row.numbered.flag, row.numbered.count))
    tokens = [row.numbered.form.format(number) for number in range(count)]
    start = row.numbered.form.partition("{")[0]
    there = [token for token in found if start in _text(token)]
    if row.numbered.flag is None or not there:
        texts = {_text(token) for token in found}
        return [*found, *(token for token in tokens if token not in texts)]
    if count not in (0, len(there)):
        raise ValueError(
            f"{checkpoint}: tokenizer_config.json has {len(there)} tokens {start}…> in additional_special_tokens, and "
            f"{row.numbered.flag} is {count}; set {row.numbered.flag} to {len(there)}"
        )
    return found


def _as_first_normalized(there: list[AddedToken], tokens: list[AddedToken]) -> list[AddedToken]:
    """Return the tokens to add, with the effect of `normalized` in the tokenizers library of transformers 4.57.

    A token that is added again stays normalized if it was so before. If it was not, the later flag has an effect only
    on a token that was not special. Other releases always use the later flag.
    """
    last = {token.content: token for token in there}
    for token in tokens:
        before = last.get(token.content, token)
        normalized = before.normalized or (token.normalized and not before.special)
        last[token.content] = AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=normalized if before is not token else token.normalized,
            special=token.special,
        )
    return [last[content] for content in dict.fromkeys(token.content for token in tokens)]


def _named(
    name: str, config: Mapping[str, Any], row: TokenizerClass, by_text: Mapping[str, AddedToken]
) -> str | AddedToken | None:
    default = row.special_tokens.get(name)
    if name not in config:
        return default
    token = _token(config[name])
    if token is None:
        return None
    token = by_text.get(_text(token), token)
    if isinstance(token, str) and isinstance(default, AddedToken):  # a plain string gets the flags of the class
        return AddedToken(
            token,
            lstrip=default.lstrip,
            rstrip=default.rstrip,
            normalized=default.normalized,
            special=default.special,
        )
    return token


def _of_map(special_tokens_map: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `special_tokens_map.json`; its additional tokens follow those of the configuration."""
    found = {key: _token(value, special=True) for key, value in special_tokens_map.items()}
    if isinstance(found.get(_FURTHER[0]), list):
        first = _listed(config.get(_FURTHER[0]))
        texts = {_text(token) for token in first}
        found[_FURTHER[0]] = [*first, *(token for token in found[_FURTHER[0]] if _text(token) not in texts)]
    return found


def _legacy_added_tokens(files: TokenizerFiles, config: Mapping[str, Any]) -> dict[int, AddedToken]:
    special = {_text(token) for name in _NAMES if (token := _token(config.get(name))) is not None}
    special.update(_text(token) for key in _FURTHER for token in _listed(config.get(key)))
    added = {
        index: AddedToken(text, normalized=text not in special, special=text in special)
        for text, index in files.added_tokens.items()
    }
    for entry in _file_tokens(files):
        added[int(entry["id"])] = _added_token({key: value for key, value in entry.items() if key != "id"})
    return added


def _token(value: Any, *, special: bool = False) -> Any:  # noqa: ANN401 - as it stands in the JSON file
    if isinstance(value, Mapping) and "content" in value:
        return _added_token({**value, **({"special": True} if special else {})})
    if isinstance(value, list):
        return [_token(token, special=special) for token in value]
    return value


def _added_token(value: Any) -> AddedToken:  # noqa: ANN401 - as it stands in the JSON file
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise ValueError(f"an added token is {value!r}; expected an object with its content")
    return AddedToken(**{key: flag for key, flag in value.items() if key != "__type"})


def _listed(value: Any) -> list[str | AddedToken]:  # noqa: ANN401 - as it stands in the JSON file
    items = value.values() if isinstance(value, Mapping) else value or []
    return [_token(token) for token in items if token]


def _text(token: str | AddedToken) -> str:
    return token if isinstance(token, str) else str(token.content)


def _file_tokens(files: TokenizerFiles) -> list[dict[str, Any]]:
    """Return the added tokens of `tokenizer.json`, each with its id."""
    if files.tokenizer_json is None:
        return []
    try:
        return list(json.loads(files.tokenizer_json.read_text(encoding="utf-8")).get("added_tokens") or [])
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{files.tokenizer_json} cannot be read ({error}); download it again") from error
