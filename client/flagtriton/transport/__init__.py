# SPDX-License-Identifier: Apache-2.0
"""The two wires to Triton behind one small interface; nothing else of the SDK imports tritonclient."""
