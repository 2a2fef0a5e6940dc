# SPDX-License-Identifier: Apache-2.0
"""The `flagtriton` command: options, questions and output."""
