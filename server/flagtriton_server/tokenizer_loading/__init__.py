# SPDX-License-Identifier: Apache-2.0
"""Builds the Rust tokenizer that gives a checkpoint's token ids from its tokenizer files; no torch."""
