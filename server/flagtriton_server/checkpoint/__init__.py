# SPDX-License-Identifier: Apache-2.0
"""Which files a checkpoint has, and what can be wrong with them; imports no torch. `flagtriton add` reads them, too."""
