# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's output in the shapes that search engines take: one module an engine.

Importing this package, or a module of it, imports no engine's client.
"""

from __future__ import annotations

__all__: list[str] = []
