# SPDX-License-Identifier: Apache-2.0
"""Texts to token ids: instructions, pairs, truncation; no torch."""
