# SPDX-License-Identifier: Apache-2.0
"""The contract between SDK, server and repository. Imports the standard library and NumPy only."""
