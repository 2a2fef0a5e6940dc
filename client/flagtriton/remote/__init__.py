# SPDX-License-Identifier: Apache-2.0
"""One deployment seen from here: many texts through it at once."""
