# SPDX-License-Identifier: Apache-2.0
"""`flagtriton plan`: how many servers a load needs, by measured rates and a simulation of queues and failures."""
