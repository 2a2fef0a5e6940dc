# SPDX-License-Identifier: Apache-2.0
"""The exceptions that torch and safetensors raise for a damaged file of tensors."""

from __future__ import annotations

import pickle

from safetensors import SafetensorError

__all__ = ["UNREADABLE"]

UNREADABLE = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""Exceptions on reading a damaged file: the unpickler trusts its input, and fails in many ways."""
