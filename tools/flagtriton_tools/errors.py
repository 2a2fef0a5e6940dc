# SPDX-License-Identifier: Apache-2.0
"""The error that the command line prints as one sentence."""

from __future__ import annotations

__all__ = ["ToolError"]


class ToolError(Exception):
    """Something the user can mend; the message says how. Ends the command with `exit_code`."""

    exit_code: int = 2
