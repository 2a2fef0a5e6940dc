# SPDX-License-Identifier: Apache-2.0
"""Embedders with the constructors and methods of FlagEmbedding's classes."""
