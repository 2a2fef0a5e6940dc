# SPDX-License-Identifier: Apache-2.0
"""Reads a server's metrics and computes rates from them."""
