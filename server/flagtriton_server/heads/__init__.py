# SPDX-License-Identifier: Apache-2.0
"""From hidden states to the outputs of a deployment."""
