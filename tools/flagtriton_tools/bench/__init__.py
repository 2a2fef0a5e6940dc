# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench`: measures a deployment and its peers on one machine, with the same texts, in turns."""
