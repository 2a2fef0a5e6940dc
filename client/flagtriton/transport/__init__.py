# SPDX-License-Identifier: Apache-2.0
"""Transports to Triton over gRPC and HTTP behind one protocol. No other package of the SDK imports tritonclient."""
