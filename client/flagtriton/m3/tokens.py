# SPDX-License-Identifier: Apache-2.0
"""Token texts of BGE-M3's token ids, fetched from the deployment's tokenizer."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from flagtriton.protocol.tensors import TOKEN, TOKEN_ID
from flagtriton.remote.model import ServedModel
from flagtriton.types import SparseWeights

__all__ = ["TokenTexts"]


class TokenTexts:
    """A cache of token texts. The tokenizer is looked up at the first use.

    Args:
        served: the deployment of BGE-M3.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._texts: dict[int, str] = {}

    def by_text(self, weights: list[SparseWeights]) -> list[dict[str, float]]:
        """Return the weights of B texts by token text instead of token id.

        Raises:
            ModelNotServedError: the deployment's tokenizer is not loaded.
        """
        self._fetch({int(key) for text in weights for key in text})
        return [{self._texts[int(key)]: weight for key, weight in text.items()} for text in weights]

    @cached_property
    def _tokenizer(self) -> ServedModel:
        return self._served.companion(f"{self._served.name}_tokenizer")

    def _fetch(self, token_ids: set[int]) -> None:
        unknown = np.array(sorted(token_ids - self._texts.keys()), dtype=np.int32)
        max_rows = self._tokenizer.max_batch_size if len(unknown) else 1
        for start in range(0, len(unknown), max_rows):
            ids = unknown[start : start + max_rows]
            reply = self._tokenizer.infer({TOKEN_ID.name: ids[:, None]}, [TOKEN.name], {})
            texts = (data.decode() for data in reply[TOKEN.name].reshape(-1))
            self._texts.update(zip(ids.tolist(), texts, strict=True))
