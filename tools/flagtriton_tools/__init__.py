# SPDX-License-Identifier: Apache-2.0
"""The `flagtriton` command: model repositories made, listed and served."""
