# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's output in the formats of search engines, one module per engine.

Importing this package or one of its modules imports no engine's client.
"""

from __future__ import annotations

__all__: list[str] = []
