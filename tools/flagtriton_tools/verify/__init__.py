# SPDX-License-Identifier: Apache-2.0
"""`flagtriton verify`: compares a deployment with plain transformers and with the libraries that it replaces."""
