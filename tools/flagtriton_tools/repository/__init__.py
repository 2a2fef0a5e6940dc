# SPDX-License-Identifier: Apache-2.0
"""A model repository on disk: writes files next to it, and moves them in as a whole."""
