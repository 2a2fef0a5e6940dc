# SPDX-License-Identifier: Apache-2.0
"""A checkpoint to an engine on a device."""
