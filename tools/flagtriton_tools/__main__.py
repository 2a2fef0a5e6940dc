# SPDX-License-Identifier: Apache-2.0
"""Entry point of the command.

It imports nothing large, so that Ctrl-C is handled from the start.
"""

from __future__ import annotations

import sys

__all__ = ["entry_point"]

_CLI_MODULES = frozenset({"click", "prometheus_client", "psutil", "rich"})
"""Modules of the packages in the extra `cli`, without those that the SDK itself requires."""


def entry_point() -> None:
    """Run the command line and end the process."""
    try:
        from flagtriton_tools.cli.main import main

        code = main()
    except KeyboardInterrupt:
        code = 130
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _CLI_MODULES:
            raise
        sys.stderr.write(f"flagtriton: the command needs {missing}: pip install 'flagtriton[cli]'\n")
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    entry_point()
