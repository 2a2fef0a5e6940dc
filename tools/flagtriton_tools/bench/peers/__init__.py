# SPDX-License-Identifier: Apache-2.0
"""Who is measured: this server and what it is compared with, each in processes of its own."""
