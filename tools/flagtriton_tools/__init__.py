# SPDX-License-Identifier: Apache-2.0
"""The `flagtriton` command, which adds, lists and serves the deployments of model repositories."""
