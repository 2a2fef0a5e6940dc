# SPDX-License-Identifier: Apache-2.0
"""`flagtriton serve`: starts and supervises a server, restarts it after failures, and loads and unloads models."""
