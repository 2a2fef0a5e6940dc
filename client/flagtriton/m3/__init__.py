# SPDX-License-Identifier: Apache-2.0
"""BGE-M3: dense, sparse and ColBERT outputs from one request, and hybrid scores of pairs."""
