# SPDX-License-Identifier: Apache-2.0
"""`flagtriton top`: what a running server is doing, at a glance."""
