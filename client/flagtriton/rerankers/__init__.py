# SPDX-License-Identifier: Apache-2.0
"""The reranker classes, each with FlagEmbedding's constructor and methods."""
