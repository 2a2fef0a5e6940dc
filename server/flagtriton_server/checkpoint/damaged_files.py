# SPDX-License-Identifier: Apache-2.0
"""What torch and safetensors raise of a file of tensors that is damaged."""

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
"""What reading a damaged file may raise: the unpickler trusts what it reads, and stumbles in many ways."""
