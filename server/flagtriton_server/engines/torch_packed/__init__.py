# SPDX-License-Identifier: Apache-2.0
"""Attention and layers over texts that lie end to end without padding."""
