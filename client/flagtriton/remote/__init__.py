# SPDX-License-Identifier: Apache-2.0
"""One deployment on a server, and the requests that a call becomes."""
