# SPDX-License-Identifier: Apache-2.0
"""`flagtriton plan`: sizes servers for a load, from measured rates and a simulation of queues and failures."""
