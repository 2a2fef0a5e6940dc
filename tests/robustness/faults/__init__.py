# SPDX-License-Identifier: Apache-2.0
"""What is killed, drained and overloaded on purpose, and what callers then see: `python -m tests.robustness.faults`."""
