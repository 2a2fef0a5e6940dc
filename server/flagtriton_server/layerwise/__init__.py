# SPDX-License-Identifier: Apache-2.0
"""The rerankers whose layers are scored one by one: MiniCPM's and Gemma-2's."""
