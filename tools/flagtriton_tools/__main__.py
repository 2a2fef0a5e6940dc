# SPDX-License-Identifier: Apache-2.0
"""The command's outermost frame, light enough that Ctrl-C finds it from the first moment on."""

from __future__ import annotations

import sys

__all__ = ["entry_point"]


def entry_point() -> None:
    """Run the command line and end the process."""
    try:
        from flagtriton_tools.cli.main import main

        code = main()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    entry_point()
