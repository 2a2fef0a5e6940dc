# SPDX-License-Identifier: Apache-2.0
"""Which tokens share a forward pass; pure NumPy."""
