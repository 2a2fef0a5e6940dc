# SPDX-License-Identifier: Apache-2.0
"""The tensors of the contract between SDK, server and repository.

All three packages import this module, which depends neither on torch nor on tritonclient nor on Triton's Python
backend. `deployment` has the parameters of a deployment, and `options` has those of a request.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AFTER",
    "ALL_COMPONENTS",
    "COLBERT_LENGTHS",
    "COLBERT_SCORE",
    "COLBERT_SPARSE_DENSE_SCORE",
    "COLBERT_VECS",
    "DEFAULT_MAX_LENGTH",
    "DENSE_SCORE",
    "DENSE_VECS",
    "DONE",
    "HIDDEN_STATES",
    "INPUT_IDS",
    "LAYER_SCORES",
    "NO_TOKEN",
    "PASSAGE",
    "PASSAGE_END",
    "PASSAGE_IDS",
    "PASSAGE_ROWS",
    "PASSAGE_START",
    "PASSAGE_STATES",
    "PROMPT_LENGTH",
    "QUERY",
    "QUERY_IDS",
    "QUERY_ROWS",
    "QUERY_STATES",
    "SCORE",
    "SCORES",
    "SPARSE_DENSE_SCORE",
    "SPARSE_IDS",
    "SPARSE_SCORE",
    "SPARSE_WEIGHTS",
    "TEXT",
    "TOKEN",
    "TOKEN_COUNT",
    "TOKEN_ID",
    "UNWEIGHTED_IDS",
    "TensorSpec",
]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the contract; `dims` has no batch dimension, and -1 is a variable length."""

    name: str
    datatype: str
    dims: tuple[int, ...]


TEXT = TensorSpec("text", "BYTES", (1,))
"""One text per row, UTF-8."""

TOKEN_COUNT = TensorSpec("token_count", "INT32", (1,))
"""Number of tokens of a text that were encoded, its special tokens included."""

INPUT_IDS = TensorSpec("input_ids", "INT32", (-1,))
"""`[B, T]` token ids; `NO_TOKEN` fills each row after its last token."""

HIDDEN_STATES = TensorSpec("hidden_states", "UINT8", (-1, -1))
"""`[B, R, D * itemsize]` last hidden states as bytes, in the dtype of the encoder's computation.

The vectors of a request's B texts lie end to end in its first B times R rows. Producer and consumer agree on the rows
per text: all its tokens, or the one row that pooling reads.
"""

DENSE_VECS = TensorSpec("dense_vecs", "FP32", (-1,))
"""`[B, D]` embeddings; unit vectors unless `normalize` is false."""

PROMPT_LENGTH = TensorSpec("prompt_length", "INT32", (1,))
"""Number of first tokens of a text that belong to its prompt and are not pooled; the same in every row of a request."""

UNWEIGHTED_IDS = TensorSpec("unweighted_ids", "INT32", (-1,))
"""Special tokens without a lexical weight, the same in every row; only the tokenizer step has them."""

SPARSE_IDS = TensorSpec("sparse_ids", "INT32", (-1,))
"""`[B, S]` token ids with a weight, in the order of their first occurrence in each text; `NO_TOKEN` follows them."""

SPARSE_WEIGHTS = TensorSpec("sparse_weights", "FP32", (-1,))
"""`[B, S]` weights (> 0) of `sparse_ids`; 0 follows the last weight of a text."""

COLBERT_VECS = TensorSpec("colbert_vecs", "FP32", (-1, -1))
"""`[B, T - 1, C]` one vector for every token but the first; zeros follow the last of a text. FP16 if a request asks for
it."""

COLBERT_LENGTHS = TensorSpec("colbert_lengths", "INT32", (1,))
"""Number of vectors of `colbert_vecs` that belong to a text."""

QUERY = TensorSpec("query", "BYTES", (1,))
PASSAGE = TensorSpec("passage", "BYTES", (1,))
"""The two texts of a pair, UTF-8."""

QUERY_IDS = TensorSpec("query_ids", "INT32", (-1,))
PASSAGE_IDS = TensorSpec("passage_ids", "INT32", (-1,))
"""`[P, T]` token ids as in `input_ids`. A text that occurred in an earlier row of its request has none here."""

QUERY_ROWS = TensorSpec("query_rows", "INT32", (1,))
PASSAGE_ROWS = TensorSpec("passage_rows", "INT32", (1,))
"""The row of the request with the tokens of this row's text: the row itself, or that of the text's first occurrence."""

DONE = TensorSpec("done", "FP32", (1,))
AFTER = TensorSpec("after", "FP32", (1,))
"""`done` is the output of a step that has ended, and `after` is the input of a step that must start after it. The value
has no meaning."""

QUERY_STATES = TensorSpec("query_states", "UINT8", (-1, -1))
PASSAGE_STATES = TensorSpec("passage_states", "UINT8", (-1, -1))
"""`hidden_states` of each side."""

DENSE_SCORE = TensorSpec("dense", "FP32", (1,))
SPARSE_SCORE = TensorSpec("sparse", "FP32", (1,))
COLBERT_SCORE = TensorSpec("colbert", "FP32", (1,))
SPARSE_DENSE_SCORE = TensorSpec("sparse_dense", "FP32", (1,))
COLBERT_SPARSE_DENSE_SCORE = TensorSpec("colbert_sparse_dense", "FP32", (1,))
"""BGE-M3's scores of a pair; the last two are weighted means."""

SCORES = {
    "colbert": COLBERT_SCORE,
    "sparse": SPARSE_SCORE,
    "dense": DENSE_SCORE,
    "sparse+dense": SPARSE_DENSE_SCORE,
    "colbert+sparse+dense": COLBERT_SPARSE_DENSE_SCORE,
}
"""FlagEmbedding's names of the scores, in its order, and their tensors."""

SCORE = TensorSpec("score", "FP32", (1,))
"""A reranker's score of a pair: a logit, or its sigmoid. `LAYER_SCORES` replaces it if a request may ask for several
layers."""

LAYER_SCORES = TensorSpec("score", "FP32", (-1,))
"""`[P, K]` scores of a pair at K layers, in the order of the layers."""

PASSAGE_START = TensorSpec("passage_start", "INT32", (1,))
PASSAGE_END = TensorSpec("passage_end", "INT32", (1,))
"""Index of the first token of a pair's passage in its row of `input_ids`, and index of the first token after it."""

TOKEN_ID = TensorSpec("token_id", "INT32", (1,))
TOKEN = TensorSpec("token", "BYTES", (1,))
"""A token id, and the text that it decodes to alone, UTF-8."""

NO_TOKEN = -1
DEFAULT_MAX_LENGTH = 512

ALL_COMPONENTS = 1 << 30
"""A `truncate_dim` that cuts no vector, for deployments that cut by default."""
