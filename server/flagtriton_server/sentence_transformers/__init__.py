# SPDX-License-Identifier: Apache-2.0
"""Reads the definitions in sentence-transformers' files; JSON only, no torch. `flagtriton add` uses them, too."""
