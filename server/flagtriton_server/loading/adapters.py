# SPDX-License-Identifier: Apache-2.0
"""PEFT adapters such as LoRA, merged into the weights of a module before its first forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["adapter_heads", "merge_adapter"]

_OF_A_HEADED_MODEL = "base_model.model.model."
_OF_A_BARE_MODEL = "base_model.model."
_HEAD = "lm_head."


def merge_adapter(module: nn.Module, adapter: str) -> nn.Module:
    """Return the module with the weights of an adapter merged into its own; no part of PEFT stays in it.

    An adapter that was trained on a model with a language-model head also fits the bare model. A head that was trained
    together with the adapter is left to `adapter_heads`.

    Args:
        module: a transformers model.
        adapter: local folder or hub name.

    Raises:
        ValueError: peft is not installed, or the adapter does not fit the module; that message names a weight.
        OSError: there is no such adapter.
    """
    try:
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    except ImportError as error:
        raise _lacks_peft(adapter) from error
    config = PeftConfig.from_pretrained(adapter)
    config.inference_mode = True
    weights = _as_of_bare_model(_read(adapter), module)
    wrapped = get_peft_model(module, config)
    outcome = set_peft_model_state_dict(wrapped, weights)
    lacking = {
        "the adapter": sorted(outcome.unexpected_keys),
        "the model": sorted(name for name in outcome.missing_keys if "lora_" in name),
    }
    for side, names in lacking.items():
        if names:
            raise ValueError(
                f"the adapter {adapter} does not fit: {names[0]} is in {side} alone, as are {len(names) - 1} others; "
                "was it trained on another checkpoint?"
            )
    merged: nn.Module = wrapped.merge_and_unload()
    return merged


def adapter_heads(adapter: str | None) -> dict[str, Tensor]:
    """Return the heads that were trained together with an adapter, by their names in the model: `lm_head.…`.

    Args:
        adapter: local folder or hub name; None has no heads.

    Raises:
        ValueError: peft is not installed.
        OSError: there is no such adapter.
    """
    if adapter is None:
        return {}
    weights = _read(adapter)
    prefix = f"{_OF_A_BARE_MODEL}{_HEAD}"
    return {name.removeprefix(_OF_A_BARE_MODEL): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _read(adapter: str) -> dict[str, Tensor]:
    try:
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise _lacks_peft(adapter) from error
    weights: dict[str, Tensor] = load_peft_weights(adapter, device="cpu")
    return weights


def _lacks_peft(adapter: str) -> ValueError:
    return ValueError(f"the adapter {adapter} needs peft: pip install 'flagtriton[peft]'")


def _as_of_bare_model(weights: dict[str, Tensor], module: nn.Module) -> dict[str, Any]:
    if "model" in dict(module.named_children()):
        return weights
    return {
        name.replace(_OF_A_HEADED_MODEL, _OF_A_BARE_MODEL, 1): tensor
        for name, tensor in weights.items()
        if not name.startswith(f"{_OF_A_BARE_MODEL}{_HEAD}")
    }
