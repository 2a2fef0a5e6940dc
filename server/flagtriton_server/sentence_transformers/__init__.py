# SPDX-License-Identifier: Apache-2.0
"""What sentence-transformers' files say of a checkpoint; JSON alone, no torch. `flagtriton add` reads them, too."""
