# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.robustness.capacity`: the simulation behind `flagtriton plan` beside real servers."""
