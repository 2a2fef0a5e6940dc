# SPDX-License-Identifier: Apache-2.0
"""The embedder classes, each with FlagEmbedding's constructor and methods."""
