# SPDX-License-Identifier: Apache-2.0
"""Builds the folders of a deployment from a checkpoint and the user's options. Pure, except for reading files."""
