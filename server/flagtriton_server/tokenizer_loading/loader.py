# SPDX-License-Identifier: Apache-2.0
"""Builds the Rust tokenizer that gives a checkpoint's token ids from its tokenizer files.

`tokenizer.json` is the source of truth. The changes that transformers 4 made by the flags of `tokenizer_config.json`
are then applied to it; docs/tokenizers.md has the rules. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from flagtriton_server.tokenizer_loading.classes import CLASSES, TokenizerClass, class_name, class_of
from flagtriton_server.tokenizer_loading.files import TOKENIZER_JSON, TokenizerFiles
from flagtriton_server.tokenizer_loading.refusals import check_served
from flagtriton_server.tokenizer_loading.special_tokens import SpecialTokens
from flagtriton_server.tokenizer_loading.vocabulary_conversion import convert_vocabulary

__all__ = ["LoadedTokenizer", "load_tokenizer"]


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, and further settings from its checkpoint.

    Attributes:
        backend: the Rust tokenizer, with the padding and truncation of its file.
        special_tokens: token texts by name, such as `cls_token`; only tokens that the checkpoint or its class has.
        truncation_side: `right` or `left`, the end at which longer texts are cut.
        cleans_up: whether decoded texts lose the spaces before punctuation.
    """

    backend: Tokenizer
    special_tokens: Mapping[str, str]
    truncation_side: str
    cleans_up: bool

    def id_of(self, name: str) -> int | None:
        """Return the id of a special token by its name; None if there is none."""
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)


def load_tokenizer(files: TokenizerFiles) -> LoadedTokenizer:
    """Return the tokenizer of a checkpoint.

    Raises:
        ValueError: a file is damaged or incomplete, or the tokenizer class cannot be served; the message gives a
            remedy.
    """
    name = class_name(files.config, files.model_config)
    check_served(files.checkpoint, name, files.saved_by_5)
    row = class_of(name, files.own_code)
    tokens = SpecialTokens.of(files, row)
    backend = _read(files, name, row, tokens.texts)
    tokens.add_to(backend)
    _apply_flags(backend, files, row, tokens.texts)
    return LoadedTokenizer(
        backend, tokens.texts, _truncation_side(backend, files), bool(files.config.get("clean_up_tokenization_spaces"))
    )


def _read(files: TokenizerFiles, name: str | None, row: TokenizerClass, names: Mapping[str, str]) -> Tokenizer:
    if files.tokenizer_json is None or _is_converted(files, row):
        if row.vocabulary is None:
            raise ValueError(_cannot_convert(files, name))
        return convert_vocabulary(files, row.vocabulary, names)
    try:
        return Tokenizer.from_file(str(files.tokenizer_json))
    except Exception as error:  # tokenizers raises no narrower exception
        raise ValueError(f"{files.tokenizer_json} cannot be read ({error}); download it again") from error


def _is_converted(files: TokenizerFiles, row: TokenizerClass) -> bool:
    """Return whether transformers 4 read the vocabulary files although there was a `tokenizer.json`."""
    if files.saved_by_5:
        return False
    flagged = row.prefix_space_converts and files.config.get("add_prefix_space") is not None
    return bool(files.config.get("from_slow")) or (
        flagged and any(name.endswith(".model") for name in files.vocabulary)
    )


def _cannot_convert(files: TokenizerFiles, name: str | None) -> str:
    there = ", ".join(files.vocabulary) or "no vocabulary file"
    known = ", ".join(other for other, row in CLASSES.items() if row.vocabulary)
    if files.tokenizer_json is None:
        lacks = f"has no {TOKENIZER_JSON}"
    else:
        flag = "from_slow" if files.config.get("from_slow") else "add_prefix_space"
        lacks = f"has {flag} in tokenizer_config.json, with which transformers 4 did not read {TOKENIZER_JSON}"
    return (
        f"{files.checkpoint} {lacks}, and {there} cannot be read for {name or 'its model type'}; write "
        f"one with transformers 4: AutoTokenizer.from_pretrained(…).save_pretrained(…){_without(files)}. Classes that "
        f"need none: {known}"
    )


def _without(files: TokenizerFiles) -> str:
    return "" if files.tokenizer_json is None else ", and take that flag out"


def _apply_flags(backend: Tokenizer, files: TokenizerFiles, row: TokenizerClass, names: Mapping[str, str]) -> None:
    backend.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
    if not files.saved_by_5:
        _set_prefix_space(backend, files, row)
        _set_normalizer(backend, files, row)
    if _has_template_flag(files) if files.saved_by_5 else row.template_flags is not None:
        _set_template(backend, files, row.template_flags or (False, False), names)


def _set_prefix_space(backend: Tokenizer, files: TokenizerFiles, row: TokenizerClass) -> None:
    flag = files.config.get("add_prefix_space")
    if flag is None and "add_prefix_space" in files.config:
        return  # transformers 4 failed to set it and continued
    wanted = row.prefix_space if flag is None else bool(flag)
    state = _state(backend.pre_tokenizer)
    if wanted is not None and state.get("type") == "ByteLevel" and state["add_prefix_space"] != wanted:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=wanted, use_regex=state.get("use_regex", True)
        )
    elif wanted and row.prefix_space_within and state:
        component = backend.pre_tokenizer
        component.__setstate__(
            component.__getstate__().replace(b'"add_prefix_space":false', b'"add_prefix_space":true')
        )
        backend.pre_tokenizer = component


def _set_normalizer(backend: Tokenizer, files: TokenizerFiles, row: TokenizerClass) -> None:
    state = _state(backend.normalizer)
    if state.get("type") != "BertNormalizer":
        return
    wanted = {key: files.flag(flag, default) for key, (flag, default) in row.normalizer_flags.items()}
    if any(state[key] != value for key, value in wanted.items()):
        flags = {key: value for key, value in {**state, **wanted}.items() if key != "type"}
        normalizer = normalizers.BertNormalizer(**flags)
        _check_finds_the_same(backend, normalizer, files, row)
        backend.normalizer = normalizer


def _check_finds_the_same(
    backend: Tokenizer, normalizer: normalizers.Normalizer, files: TokenizerFiles, row: TokenizerClass
) -> None:
    """Check that a new normalizer leaves the added tokens unchanged; transformers 4 did not find changed ones."""
    for token in backend.get_added_tokens_decoder().values():
        text = token.content
        if token.normalized and backend.normalizer.normalize_str(text) != normalizer.normalize_str(text):
            named = ", ".join(flag for flag, _ in row.normalizer_flags.values())
            raise ValueError(
                f"{files.checkpoint}: one of {named} in tokenizer_config.json, or its default, changes how {text!r} is "
                f"normalised, an added token, which transformers 4 then missed; set them as in {TOKENIZER_JSON}"
            )


def _has_template_flag(files: TokenizerFiles) -> bool:
    return any(files.config.get(flag) is not None for flag in ("add_bos_token", "add_eos_token"))


def _set_template(
    backend: Tokenizer, files: TokenizerFiles, defaults: tuple[bool, bool], names: Mapping[str, str]
) -> None:
    """Build the template from `add_bos_token` and `add_eos_token`.

    The default of a missing flag is that of the class. In a file of transformers 5, the default is the present
    template.
    """
    if files.saved_by_5:
        ids = backend.encode("", add_special_tokens=True).ids
        bos, eos = (backend.token_to_id(names.get(name, "")) for name in ("bos_token", "eos_token"))
        defaults = bool(ids) and ids[0] == bos, bool(ids) and ids[-1] == eos
    ends = {}
    for end, default in zip(("bos", "eos"), defaults, strict=True):
        flag, token = files.config.get(f"add_{end}_token", default), names.get(f"{end}_token")
        adds = default if flag is None and files.saved_by_5 else bool(flag)  # transformers 4 read null as false
        if adds and token is None:
            raise ValueError(
                f"{files.checkpoint}: tokenizer_config.json says add_{end}_token, but names no {end}_token; name one, "
                f"or set add_{end}_token to false"
            )
        ends[end] = [token] if adds and token is not None else []
    parts = [
        [*(f"{t}:{kind}" for t in ends["bos"]), f"{text}:{kind}", *(f"{t}:{kind}" for t in ends["eos"])]
        for kind, text in enumerate(("$A", "$B"))
    ]
    special = [(token, backend.token_to_id(token)) for token in {*ends["bos"], *ends["eos"]}]
    backend.post_processor = processors.TemplateProcessing(
        single=parts[0], pair=[*parts[0], *parts[1]], special_tokens=special
    )


def _truncation_side(backend: Tokenizer, files: TokenizerFiles) -> str:
    of_file = str((backend.truncation or {}).get("direction", "right")).lower()
    return str(files.config.get("truncation_side") or of_file)


def _state(component: Any) -> dict[str, Any]:  # noqa: ANN401 - a part of a Rust tokenizer, or None
    return {} if component is None else dict(json.loads(component.__getstate__()))
