# SPDX-License-Identifier: Apache-2.0
"""Models that serve several domains, one at a time (pseudo-MoE): choosing one for some texts, and no longer."""

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
    """Yield the encoder with a domain chosen, by the module's `set_domain` and its argument `domain=`, if it has them.

    What `set_domain` changes is put back, so that texts without a domain get the model's own choice whatever came
    before them.

    Args:
        encoder: one that knows no domains takes no notice.
        domain: what the model calls it.

    Raises:
        ValueError: or whatever else the module raises for a domain that it does not have.
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
    """Return a module's attributes, and its parameters, buffers and children by name; tensors are not copied."""
    registers = ("_parameters", "_buffers", "_modules")
    return {name: dict(value) if name in registers else value for name, value in vars(module).items()}
