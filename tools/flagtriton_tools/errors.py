# SPDX-License-Identifier: Apache-2.0
"""The error that the command line prints as a short message."""

from __future__ import annotations

__all__ = ["ToolError"]


class ToolError(Exception):
    """An error that the user can fix; the message says how. The command ends with `exit_code`."""

    exit_code: int = 2
