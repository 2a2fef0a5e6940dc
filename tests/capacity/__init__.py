# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.capacity`: the simulation behind `flagtriton plan` beside real servers."""
