# SPDX-License-Identifier: Apache-2.0
"""Plans which tokens share a forward pass; pure NumPy."""
