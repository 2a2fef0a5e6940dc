# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench`: one machine, the same texts, and everybody in turn."""
