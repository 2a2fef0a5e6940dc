# SPDX-License-Identifier: Apache-2.0
"""Rerankers with the constructors and methods of FlagEmbedding's classes."""
