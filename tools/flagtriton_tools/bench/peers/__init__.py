# SPDX-License-Identifier: Apache-2.0
"""Contestants of a benchmark: flagtriton's server and its peers, each in separate processes."""
