# SPDX-License-Identifier: Apache-2.0
"""One forward pass on one device."""
