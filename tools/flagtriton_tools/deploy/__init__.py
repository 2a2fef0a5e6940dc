# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint and the user's options to the folders of a deployment. Pure, except for reading files."""
