# SPDX-License-Identifier: Apache-2.0
"""One tritonserver process: how it is started, what it says, and its HTTP API."""
