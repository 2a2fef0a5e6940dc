# SPDX-License-Identifier: Apache-2.0
"""The rerankers with a score for each of several layers: MiniCPM's and Gemma-2's."""
