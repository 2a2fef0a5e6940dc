# SPDX-License-Identifier: Apache-2.0
"""The contract between SDK, server and repository: tensors, and a deployment's parameters; `options` has a request's.

All three import these two modules, which know nothing of torch, tritonclient or Triton's Python backend.
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
    """One tensor of the contract; `dims` without the batch dimension, -1 where the length varies."""

    name: str
    datatype: str
    dims: tuple[int, ...]


TEXT = TensorSpec("text", "BYTES", (1,))
"""One text a row, UTF-8."""

TOKEN_COUNT = TensorSpec("token_count", "INT32", (1,))
"""How many tokens of a text were encoded, its special tokens included."""

INPUT_IDS = TensorSpec("input_ids", "INT32", (-1,))
"""`[B, T]` token ids, each row filled up with `NO_TOKEN` behind its last token."""

HIDDEN_STATES = TensorSpec("hidden_states", "UINT8", (-1, -1))
"""`[B, R, D * itemsize]` last hidden states as bytes, in the dtype the encoder computes in.

The vectors of a request's B texts lie end to end as its first B times R rows. How many a text has is the pair of
steps' own affair: all its tokens, or the one that pooling reads.
"""

DENSE_VECS = TensorSpec("dense_vecs", "FP32", (-1,))
"""`[B, D]` embeddings; unit vectors unless `normalize` is false."""

PROMPT_LENGTH = TensorSpec("prompt_length", "INT32", (1,))
"""How many of a text's first tokens are its prompt's and are not pooled, the same in every row of a request."""

UNWEIGHTED_IDS = TensorSpec("unweighted_ids", "INT32", (-1,))
"""The special tokens that bear no lexical weight, the same in every row; only the tokenizer knows them."""

SPARSE_IDS = TensorSpec("sparse_ids", "INT32", (-1,))
"""`[B, S]` token ids that bear weight, each text's in the order of their first occurrence, `NO_TOKEN` behind them."""

SPARSE_WEIGHTS = TensorSpec("sparse_weights", "FP32", (-1,))
"""`[B, S]` weights (> 0) of `sparse_ids`, 0 behind a text's last."""

COLBERT_VECS = TensorSpec("colbert_vecs", "FP32", (-1, -1))
"""`[B, T - 1, C]` a vector for every token but the first; zeros behind a text's last; FP16 if a request asks for it."""

COLBERT_LENGTHS = TensorSpec("colbert_lengths", "INT32", (1,))
"""How many vectors of `colbert_vecs` are a text's own."""

QUERY = TensorSpec("query", "BYTES", (1,))
PASSAGE = TensorSpec("passage", "BYTES", (1,))
"""The two texts of a pair, UTF-8."""

QUERY_IDS = TensorSpec("query_ids", "INT32", (-1,))
PASSAGE_IDS = TensorSpec("passage_ids", "INT32", (-1,))
"""`[P, T]` token ids as in `input_ids`. A text that came in an earlier row of its request has none here."""

QUERY_ROWS = TensorSpec("query_rows", "INT32", (1,))
PASSAGE_ROWS = TensorSpec("passage_rows", "INT32", (1,))
"""Which row of the request has the tokens of this row's text: its own, or that of its first occurrence."""

DONE = TensorSpec("done", "FP32", (1,))
AFTER = TensorSpec("after", "FP32", (1,))
"""What a step sends when it has ended, and what one takes that is to begin then; the number says nothing."""

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
"""FlagEmbedding's names of the scores, in its order, and the tensors they come in."""

SCORE = TensorSpec("score", "FP32", (1,))
"""A reranker's score of a pair: a logit, or its sigmoid. `LAYER_SCORES` where a request may ask for several layers'."""

LAYER_SCORES = TensorSpec("score", "FP32", (-1,))
"""`[P, K]` scores of a pair at K layers, in their order."""

PASSAGE_START = TensorSpec("passage_start", "INT32", (1,))
PASSAGE_END = TensorSpec("passage_end", "INT32", (1,))
"""At which token of its row in `input_ids` a pair's passage begins, and at which what follows it."""

TOKEN_ID = TensorSpec("token_id", "INT32", (1,))
TOKEN = TensorSpec("token", "BYTES", (1,))
"""A token id, and the text it decodes to by itself, UTF-8."""

NO_TOKEN = -1
DEFAULT_MAX_LENGTH = 512

ALL_COMPONENTS = 1 << 30
"""A `truncate_dim` that cuts no vector, for deployments that cut where a request does not say."""
