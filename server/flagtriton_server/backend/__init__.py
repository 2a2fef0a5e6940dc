# SPDX-License-Identifier: Apache-2.0
"""Triton's side of a step: requests, responses, the queue and its worker, metrics; no torch."""
