# SPDX-License-Identifier: Apache-2.0
"""Hidden states to a deployment's outputs."""
