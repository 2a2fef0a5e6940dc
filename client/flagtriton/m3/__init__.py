# SPDX-License-Identifier: Apache-2.0
"""BGE-M3: dense, sparse and ColBERT outputs of one request, and hybrid scores of pairs."""
