# SPDX-License-Identifier: Apache-2.0
"""A model repository on disk: what is written into it, and moved as a whole."""
