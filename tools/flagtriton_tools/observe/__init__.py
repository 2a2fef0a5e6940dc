# SPDX-License-Identifier: Apache-2.0
"""What a server's metrics say, as rates."""
