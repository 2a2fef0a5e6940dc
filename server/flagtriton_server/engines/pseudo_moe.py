# SPDX-License-Identifier: Apache-2.0
"""Models with several domains, one active at a time (pseudo-MoE): selection of a domain for some texts only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from flagtriton_server.engines.base import LoadedEncoder

__all__ = ["use_domain"]


@contextmanager
def use_domain(encoder: LoadedEncoder, domain: str) -> Iterator[LoadedEncoder]:
    """Yield the encoder with a domain selected by the module's `set_domain` and argument `domain=`, if it has them.

    Afterwards the changes of `set_domain` are undone. So texts without a domain get the model's own choice, independent
    of earlier texts.

    Args:
        encoder: the encoder; a domain has no effect on a module without domains.
        domain: the model's name of the domain.

    Raises:
        ValueError: the module does not have the domain; modules may also raise other exceptions for that.
    """
    chosen = replace(encoder, arguments={"domain": domain}) if _takes_domain(encoder.module) else encoder
    if not hasattr(encoder.module, "set_domain"):
        yield chosen
        return
    before = [(module, _contents(module)) for module in encoder.module.modules()]
    try:
        encoder.module.set_domain(domain)
        yield chosen
    finally:
        for module, contents in before:
            vars(module).clear()
            vars(module).update(contents)


def _takes_domain(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters
    return "domain" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _contents(module: nn.Module) -> dict[str, object]:
    """Return a module's attributes, with its parameters, buffers and children by name; tensors are not copied."""
    registers = ("_parameters", "_buffers", "_modules")
    return {name: dict(value) if name in registers else value for name, value in vars(module).items()}
