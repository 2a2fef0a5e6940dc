# SPDX-License-Identifier: Apache-2.0
"""One tritonserver process: its start, its log and its HTTP API."""
