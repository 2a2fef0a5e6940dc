# SPDX-License-Identifier: Apache-2.0
"""`flagtriton serve`: a server watched, restarted where it fails, and asked to change."""
