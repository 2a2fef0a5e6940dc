# SPDX-License-Identifier: Apache-2.0
"""What is printed where the terminal's encoding does not have it, as a path with bytes that are not UTF-8."""

from __future__ import annotations

import io
import sys

__all__ = ["print_anything"]


def print_anything() -> None:
    """Let both streams write escapes for what their encoding lacks, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
