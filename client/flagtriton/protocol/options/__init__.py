# SPDX-License-Identifier: Apache-2.0
"""The options of a request, which travel as Triton request parameters: written by the SDK, checked by the steps."""
