# SPDX-License-Identifier: Apache-2.0
"""The `flagtriton` command: options, questions and what is printed."""
