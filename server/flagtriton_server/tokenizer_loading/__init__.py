# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's tokenizer files to the Rust tokenizer that gives its token ids; no torch."""
