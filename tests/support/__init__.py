# SPDX-License-Identifier: Apache-2.0
"""What tests share: fakes, checkpoints, servers, waiting; each written once."""
