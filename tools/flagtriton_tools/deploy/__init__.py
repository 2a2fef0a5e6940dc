# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and the user's options to the folders of a deployment. Pure, but for reading files."""
