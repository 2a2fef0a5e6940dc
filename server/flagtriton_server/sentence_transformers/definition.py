# SPDX-License-Identifier: Apache-2.0
"""Reads the modules of a checkpoint, as sentence-transformers' `modules.json` lists them. Reads JSON only.

The rules are those of sentence-transformers 6.2. `transformer_settings` reads the settings of the first module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from flagtriton_server.checkpoint.lookup import FileFinder
from flagtriton_server.sentence_transformers.activations import activation_refused

__all__ = [
    "NORMALIZE",
    "DefinitionError",
    "DenseModule",
    "EmbedderDefinition",
    "ListedModule",
    "dense_module",
    "listed_modules",
    "pooled_chain",
    "read_json",
]

NORMALIZE: Final = "Normalize"

_FAMILY = "sentence_transformers."
_NO_PATH = re.compile(r"^/|[,\\\x00-\x1f]|(^|/)\.\.(/|$)")
"""Paths that lead out of a checkpoint, or contain a backslash, a control character or a comma. A comma separates two
modules."""

_NO_NUMBERS = ("Dropout",)
"""Modules that change nothing when a text is encoded."""

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "last_token",
}
"""Flags of older files, in the order in which sentence-transformers joins several poolings."""

_MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
    "lasttoken": "last_token",
}
"""Names of newer files."""


class DefinitionError(ValueError):
    """The files define a feature that is not served; the message names it."""


@dataclass(frozen=True)
class ListedModule:
    """One entry of `modules.json`.

    Attributes:
        kind: name of the class, or the whole dotted type of a class outside sentence-transformers.
        path: folder of the module inside the checkpoint; empty for the folder of the checkpoint.
    """

    kind: str
    path: str


@dataclass(frozen=True)
class DenseModule:
    """The configuration of a `Dense` module.

    Attributes:
        path: folder of the module inside the checkpoint.
        out_features: number of outputs of its matrix; `width` is that of the module.
        activation: dotted name of a class of torch, one of `activations.ACTIVATIONS`.
        residual: the input is added to the output, through a separate matrix if the widths differ.
    """

    path: str
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool

    @property
    def width(self) -> int:
        """Components of its vectors; a GLU multiplies one half of the outputs by the sigmoid of the other half."""
        return self.out_features // 2 if self.activation.endswith(".GLU") else self.out_features


@dataclass(frozen=True)
class EmbedderDefinition:
    """The embedder that sentence-transformers builds from a checkpoint.

    Attributes:
        pooling: names joined by `+`, whose vectors are concatenated; None if there is no `modules.json`.
        pooling_width: D of the hidden states that pooling expects, if the file has it.
        include_prompt: the tokens of a prompt are pooled, too.
        chain: modules after pooling, in their order, without a final `Normalize`.
        normalize: the vectors are normalized at the end.
        truncate_dim: number of first components that are kept, after all modules; None for all.
        lower_case: texts are lower-cased before they are tokenized.
        max_seq_length: default number of tokens of a text; None for all positions of the checkpoint.
        prompts: prompts by name, as pairs, so that the object is hashable.
        default_prompt_name: name of the prompt before texts for which no prompt is chosen.
    """

    pooling: str | None = None
    pooling_width: int | None = None
    include_prompt: bool = True
    chain: tuple[DenseModule | str, ...] = ()
    normalize: bool = True
    truncate_dim: int | None = None
    lower_case: bool = False
    max_seq_length: int | None = None
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt_name: str | None = None

    @property
    def modules(self) -> str | None:
        """The modules after pooling as the steps' settings have them, such as `Dense:2_Dense`; None if none."""
        parts = [part if isinstance(part, str) else f"Dense:{part.path}" for part in self.chain]
        return ",".join(parts) or None

    def width(self, hidden_size: int | None) -> int | None:
        """Return the number of components of a vector, for hidden states of D; None if D is unknown.

        Raises:
            DefinitionError: a module expects another width than it gets; the message names both.
        """
        if None not in (self.pooling_width, hidden_size) and self.pooling_width != hidden_size:
            raise DefinitionError(f"its pooling expects {self.pooling_width} components, the model has {hidden_size}")
        known = hidden_size or self.pooling_width
        width = None if known is None else known * len((self.pooling or "cls").split("+"))
        for part in self.chain:
            if isinstance(part, DenseModule):
                if width not in (None, part.in_features):
                    raise DefinitionError(f"{part.path} expects {part.in_features} components, but {width} come")
                width = part.width
        return width


def read_json(find: FileFinder, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the content of a file, or None if the checkpoint lacks it.

    Raises:
        DefinitionError: the file is not JSON.
    """
    file = find(name)
    if file is None:
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise DefinitionError(f"{name} cannot be read as JSON: {error}") from error


def listed_modules(find: FileFinder) -> list[ListedModule]:
    """Return the entries of `modules.json`; an empty list if there is no such file.

    Raises:
        DefinitionError: it is no list of objects with `type` and `path`, or a path leads out of the checkpoint.
    """
    content = read_json(find, "modules.json")
    if content is None:
        return []
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DefinitionError("modules.json is no list of objects")
    return [_listed(entry) for entry in content]


def _listed(entry: Mapping[str, Any]) -> ListedModule:
    kind, path = entry.get("type"), entry.get("path")
    if not isinstance(kind, str) or not isinstance(path, str):
        raise DefinitionError(f"modules.json has {dict(entry)}; expected 'type' and 'path', both strings")
    if _NO_PATH.search(path):
        raise DefinitionError(
            f"modules.json names the path {path!r}; expected a folder inside the checkpoint, without commas"
        )
    folder = PurePosixPath(path).as_posix()
    return ListedModule(kind.rpartition(".")[2] if kind.startswith(_FAMILY) else kind, "" if folder == "." else folder)


def pooled_chain(find: FileFinder, modules: Sequence[ListedModule]) -> EmbedderDefinition:
    """Return the definition of the modules after the transformer.

    Raises:
        DefinitionError: a module is not served, or its place has no meaning; the message names it.
    """
    first, further = modules[0], [module for module in modules[1:] if module.kind not in _NO_NUMBERS]
    if first.kind != "Transformer":
        raise DefinitionError(f"modules.json begins with {first.kind}; expected sentence-transformers' Transformer")
    if first.path:
        raise DefinitionError(f"modules.json has the transformer in {first.path!r}; move its files up beside it")
    if not further or further[0].kind != "Pooling":
        found = further[0].kind if further else "nothing"
        raise DefinitionError(f"modules.json has {found} behind the Transformer; expected Pooling")
    defined = _pooling(find, further[0])
    chain = [_following(find, module) for module in further[1:]]
    normalize = bool(chain) and chain[-1] == NORMALIZE
    while chain and chain[-1] == NORMALIZE:
        chain.pop()
    return replace(defined, chain=tuple(chain), normalize=normalize)


def _following(find: FileFinder, module: ListedModule) -> DenseModule | str:
    if module.kind == "Dense":
        return dense_module(find, module.path)
    if module.kind == NORMALIZE:
        _check_place(read_json(find, _config(module.path)) if module.path else None, module.path)
        return NORMALIZE
    raise DefinitionError(
        f"modules.json has {module.kind} in {module.path!r}; Dense, Normalize and Dropout are what is served behind "
        "one Pooling"
    )


def _pooling(find: FileFinder, module: ListedModule) -> EmbedderDefinition:
    content = _object(find, _config(module.path))
    width = content.get("embedding_dimension", content.get("word_embedding_dimension"))
    include_prompt = content.get("include_prompt", True)
    if not isinstance(include_prompt, bool | None):  # sentence-transformers reads null as false
        raise DefinitionError(f"{_config(module.path)} has include_prompt {include_prompt!r}; expected true or false")
    pooling = "+".join(_methods(content, _config(module.path)))
    skips = not include_prompt and pooling != "last_token"  # the last token of a text is in no prompt
    return EmbedderDefinition(pooling, width if isinstance(width, int) else None, include_prompt=not skips)


def _methods(content: Mapping[str, Any], where: str) -> list[str]:
    """Return the poolings that a file names, in the order in which their vectors are joined."""
    unknown = [key for key, on in content.items() if key.startswith("pooling_mode_") and key not in _FLAGS and on]
    if unknown:
        raise DefinitionError(f"{where} has {unknown[0]}; known are {', '.join(_FLAGS)}")
    if "pooling_mode" not in content:
        return [method for flag, method in _FLAGS.items() if content.get(flag)] or ["mean"]
    modes = content["pooling_mode"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not all(mode in _MODES for mode in modes):
        raise DefinitionError(f"{where} has pooling_mode {content['pooling_mode']!r}; known are {', '.join(_MODES)}")
    return [_MODES[mode] for mode in modes]


def dense_module(find: FileFinder, path: str) -> DenseModule:
    """Return the configuration of a `Dense` module.

    Raises:
        DefinitionError: the file is missing, or it defines something that is not served.
    """
    where = _config(path)
    content = _object(find, where)
    _check_place(content, path)
    sizes: list[Any] = [content.get(name) for name in ("in_features", "out_features")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise DefinitionError(f"{where} has in_features {sizes[0]!r} and out_features {sizes[1]!r}; expected sizes")
    activation = content.get("activation_function", "torch.nn.modules.activation.Tanh")
    flags = content.get("bias", True), content.get("use_residual", False)
    if not isinstance(activation, str) or not all(isinstance(flag, bool) for flag in flags):
        raise DefinitionError(f"{where} is no configuration of a Dense module: {content}")
    module = DenseModule(path, sizes[0], sizes[1], flags[0], activation, flags[1])
    complaint = activation_refused(module.activation, module.out_features, residual=module.residual)
    if complaint is not None:
        raise DefinitionError(f"{where} {complaint}")
    return module


def _check_place(content: Mapping[str, Any] | None, path: str) -> None:
    """Raise if the input or output of a module is not the one vector of a text."""
    for name in ("module_input_name", "module_output_name"):
        place = (content or {}).get(name)
        if place not in (None, "sentence_embedding"):
            raise DefinitionError(f"{_config(path)} has {name} {place!r}; expected sentence_embedding")


def _object(find: FileFinder, name: str) -> dict[str, Any]:
    content = read_json(find, name)
    if not isinstance(content, dict):
        raise DefinitionError(f"{name} {'is missing' if content is None else 'is no object'}")
    return content


def _config(path: str) -> str:
    return f"{path}/config.json" if path else "config.json"
