# SPDX-License-Identifier: Apache-2.0
"""The options of an embedding request, as Triton request parameters: written by the SDK, checked by the steps.

`options/rerank.py` has those of a reranker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flagtriton.protocol.examples import (
    DEFAULT_EXAMPLE_FORMAT,
    DEFAULT_SUFFIX,
    Example,
    check_example_format,
    check_examples,
)
from flagtriton.protocol.instructions import check_instruction_format
from flagtriton.protocol.model_classes import EmbedderModelClass, model_class_row
from flagtriton.protocol.options.checks import (
    Check,
    OptionError,
    OptionValue,
    a_boolean,
    a_string,
    a_whole_number,
    checked,
    different,
    one_of,
    tokens,
)
from flagtriton.protocol.text import check_encodable

__all__ = ["EmbedOptions"]


def _a_format(check_format: Callable[[str, str], None]) -> Check:
    def check(name: str, value: object) -> None:
        a_string(name, value)
        try:
            check_format(str(value), f"option {name!r}")
        except ValueError as error:
            raise OptionError(str(error)) from error

    return check


def _examples(name: str, value: object) -> None:
    a_string(name, value)
    try:
        examples = json.loads(str(value))
        check_examples(examples, name, strict=True)
        check_encodable(json.dumps(examples, ensure_ascii=False), name)  # JSON may contain escaped lone surrogates
    except (RecursionError, TypeError, ValueError) as error:
        raise OptionError(
            f"option {name!r} is no JSON list of objects with the keys instruct, query and response: {error}"
        ) from error


_CHECKS: Final[dict[str, Check]] = {
    "examples": _examples,
    "examples_instruction_format": _a_format(check_example_format),
    "prefix": a_string,
    "suffix": a_string,
    "domain": a_string,
    "colbert_dtype": one_of("fp32", "fp16"),
}
"""The options that embedders of some classes have; the rows of `model_classes` list them."""

_OF_EXAMPLES: Final = model_class_row("embed", EmbedderModelClass.DECODER_ONLY_ICL).options


@dataclass(frozen=True)
class EmbedOptions:
    """The options of one embedding request, which travel as Triton request parameters.

    Attributes:
        max_length: largest number of tokens of a text, special tokens included; None for the default of the deployment.
        input_type: `query` or `passage`; the deployment's instruction for it then precedes every text.
        instruction: replacement of the deployment's instruction; needs an `input_type`, whose format applies.
        instruction_format: replacement of that format, with two fields: instruction and text.
        prompt_name: name of a prompt of the checkpoint that precedes every text in place of an instruction; empty for
            no prompt.
        normalize: L2-normalize the vectors.
        truncate_dim: number of first components that are kept, before normalization.
        truncate: `END` cuts longer texts after `max_length` tokens, `NONE` refuses them.
        examples: few-shot examples before every query. This option and the next three belong to `decoder-only-icl`. The
            parameter is a JSON list of objects with the keys `instruct`, `query` and `response`.
        examples_instruction_format: format of one example, with three fields.
        prefix: the text of the examples, in place of `examples`.
        suffix: text after every query.
        domain: the expert of a `decoder-only-pseudo_moe` model that is used.
        colbert_dtype: `fp32` or `fp16`, the dtype of ColBERT vectors on the wire, for `encoder-only-m3`; JSON has no
            fp16.
        bulk: the request is part of a long job, and interactive requests may overtake it.
    """

    max_length: int | None = None
    input_type: str | None = None
    instruction: str | None = None
    instruction_format: str | None = None
    prompt_name: str | None = None
    normalize: bool = True
    truncate_dim: int | None = None
    truncate: str = "END"
    examples: tuple[Example, ...] | None = None
    examples_instruction_format: str = DEFAULT_EXAMPLE_FORMAT
    prefix: str | None = None
    suffix: str = DEFAULT_SUFFIX
    domain: str | None = None
    colbert_dtype: str = "fp32"
    bulk: bool = False

    def to_parameters(self) -> dict[str, OptionValue]:
        """Return the options that differ from their defaults, by name."""
        parameters = different(self)
        if self.examples is not None:
            parameters["examples"] = json.dumps(self.examples)
        return parameters

    @classmethod
    def from_parameters(
        cls,
        parameters: Mapping[str, Any],
        *,
        min_length: int,
        max_length: int,
        model_class: str | None = None,
        normalize: bool = True,
        truncate_dim: int | None = None,
    ) -> EmbedOptions:
        """Return the options of a request.

        Args:
            parameters: the request's parameters, as Triton provides them.
            min_length: smallest `max_length` allowed: the number of the tokenizer's special tokens, or 1.
            max_length: largest `max_length` allowed: that of the deployment.
            model_class: options that only other classes have are unknown; None allows the options of all classes.
            normalize: value for a request that does not set it.
            truncate_dim: value for a request that does not set it.

        Raises:
            OptionError: an option is unknown or not allowed; the message has its name, its value and the allowed
                values.
        """
        checks: dict[str, Check] = {
            "max_length": tokens(min_length, max_length),
            "input_type": one_of("query", "passage"),
            "instruction": a_string,
            "instruction_format": _a_format(check_instruction_format),
            "prompt_name": a_string,
            "normalize": a_boolean,
            "truncate_dim": a_whole_number(1, None, "components"),
            "truncate": one_of("END", "NONE"),
            "bulk": a_boolean,
        }
        known = _CHECKS if model_class is None else model_class_row("embed", model_class).options
        checks |= {name: _CHECKS[name] for name in known}
        given = checked(parameters, checks)
        if "examples" in given:
            given["examples"] = tuple(json.loads(given["examples"]))
        _check_company(given)
        return cls(**{"normalize": normalize, "truncate_dim": truncate_dim, **given})


def _check_company(given: Mapping[str, Any]) -> None:
    """Refuse options that need another option, or that exclude another option."""
    for name in ("instruction", "instruction_format"):
        if name in given and "input_type" not in given:
            raise OptionError(f"option {name!r} came without 'input_type'; send 'query' or 'passage' with it")
        if name in given and "prompt_name" in given:
            raise OptionError(f"options {name!r} and 'prompt_name' came both; a prompt takes its place, so send one")
    for name in _OF_EXAMPLES:
        if name in given and given.get("input_type") != "query":
            raise OptionError(f"option {name!r} came without 'input_type' 'query', and belongs to queries alone")
    if "examples" in given and "prefix" in given:
        raise OptionError("options 'examples' and 'prefix' came both; a prefix is what examples make, so send one")
