# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to an engine on a device."""
