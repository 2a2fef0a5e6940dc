# SPDX-License-Identifier: Apache-2.0
"""Malformed requests to a real server, the same ones for the same seed, and proof that it stands."""
