# SPDX-License-Identifier: Apache-2.0
"""`flagtriton verify`: a deployment's answers beside those of plain transformers and of the libraries it stands for."""
