# SPDX-License-Identifier: Apache-2.0
"""The files of a checkpoint, and checks for damaged or missing ones; no torch. `flagtriton add` uses it, too."""
