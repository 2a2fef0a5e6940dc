# SPDX-License-Identifier: Apache-2.0
"""Computes a checkpoint's answers without flagtriton: plain transformers in float32 with padded texts.

The token ids come from the checkpoint's own files. This module repeats the arithmetic on purpose, without the code that
serves: one padded batch, pooling by masks, heads by their formulas. Only the `Dense` layers are those of the server
package. It needs torch and transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from flagtriton.protocol.deployment import Deployment
from flagtriton_server.checkpoint.lookup import file_finder
from flagtriton_server.heads.dense import load_chain
from flagtriton_server.loading.adapters import merge_adapter
from flagtriton_server.tokenizer_loading.classes import OWN_CODE_WITH_FLAGS
from flagtriton_server.tokenizer_loading.files import TokenizerFiles
from flagtriton_server.tokenizer_loading.loader import LoadedTokenizer, load_tokenizer
from flagtriton_server.tokenizer_loading.own_code import load_by_own_code

__all__ = ["PlainModel", "Rows"]

Rows = list[list[int]]
"""Token ids of each text, special tokens included."""

_ROWS_OF_A_BATCH = 16


_POOLINGS: Final[dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "cls": lambda h, _: h[0],
    "last_token": lambda h, _: h[-1],
    "max": lambda h, _: h.max(dim=0).values,
    "mean": lambda h, _: h.mean(dim=0),
    "mean_sqrt_len": lambda h, _: h.sum(dim=0) / len(h) ** 0.5,
    "weightedmean": lambda h, places: places @ h / places.sum(),
}
"""Poolings by name. Each takes a text's states `[T, D]` and its positions from 1 on, `[T]`, and returns `[D]`."""


class PlainModel:
    """Reference model of a deployment's checkpoint.

    Args:
        deployment: deployment to compare with; it names the revision and the pooling.
        checkpoint: folder or hub name of the checkpoint on this machine.
        device: `cpu` or `cuda`.
    """

    def __init__(self, deployment: Deployment, checkpoint: str, device: str = "cpu") -> None:
        self._deployment = deployment
        self._source = {"revision": deployment.revision or "main", "trust_remote_code": deployment.trust_remote_code}
        self._checkpoint = checkpoint
        self._device = torch.device(device)
        self._module: Any = None

    @cached_property
    def tokenizer(self) -> LoadedTokenizer:
        """Tokenizer of the checkpoint, read in this process from `tokenizer.json` and the flags next to it."""
        files = TokenizerFiles.find(self._checkpoint, self._deployment.revision)
        code = files.own_code if self._deployment.trust_remote_code else None
        if code is not None and code not in OWN_CODE_WITH_FLAGS:
            return load_by_own_code(self._checkpoint, self._deployment.revision)
        return load_tokenizer(files)

    def rows(self, texts: Sequence[str], max_length: int) -> Rows:
        """Return the token ids of texts cut to a length, with special tokens."""
        if self._deployment.lower_case:
            texts = [text.lower() for text in texts]
        backend = self.tokenizer.backend
        backend.no_padding()
        backend.enable_truncation(max_length, direction=self.tokenizer.truncation_side)
        return [encoding.ids for encoding in backend.encode_batch(list(texts))]

    def pair_rows(self, pairs: Sequence[tuple[str, str]]) -> tuple[Rows, Rows]:
        """Return the ids and token types of pairs that are not cut, as the tokenizer joins them."""
        backend = self.tokenizer.backend
        backend.no_padding()
        backend.no_truncation()
        encodings = backend.encode_batch(list(pairs))
        return [encoding.ids for encoding in encodings], [encoding.type_ids for encoding in encodings]

    def bare(self, text: str) -> list[int]:
        """Return the token ids of a text without special tokens."""
        self.tokenizer.backend.no_truncation()
        return list(self.tokenizer.backend.encode(text, add_special_tokens=False).ids)

    def states(self, rows: Rows) -> list[torch.Tensor]:
        """Return the last hidden states of each row, `[T, D]` float32."""
        module = self._load("AutoModel")
        return self._each(rows, lambda **inputs: module(**inputs).last_hidden_state)

    def encoder_scores(self, rows: Rows, types: Rows) -> NDArray[np.float32]:
        """Return the logit of each row, `[P]`, from the checkpoint's classification head."""
        module = self._load("AutoModelForSequenceClassification")
        if getattr(module.config, "type_vocab_size", 1) < 2:
            types = []
        logits = self._each(rows, lambda **inputs: module(**inputs).logits, types, whole=False)
        return torch.stack(logits).reshape(-1).numpy()

    def yes_scores(self, rows: Rows) -> NDArray[np.float32]:
        """Return the logit of `Yes` after each row, `[P]`, of a causal language model."""
        module = self._load("AutoModelForCausalLM")
        yes = self.bare("Yes")[0]
        logits = self._each(rows, lambda **inputs: module(**inputs).logits[..., yes : yes + 1])
        return torch.stack([of_row[-1, 0] for of_row in logits]).numpy()

    def dense(self, states: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Return unit vectors `[B, D]`, pooled as in the deployment and passed through its `Dense` layers."""
        return functional.normalize(self._vectors(states), dim=-1).numpy()

    def by_default(self, texts: Sequence[str], max_length: int) -> NDArray[np.float32] | None:
        """Return the vectors of requests without options: with the default prompt, cut, normalised or not.

        None if nothing is left of a text after a prompt whose tokens are not pooled.
        """
        served = self._deployment
        prompt: str = json.loads(served.prompts or "{}").get(served.default_prompt_name, "")
        skipped = self._prompt_tokens(prompt, max_length) if prompt and served.include_prompt is False else 0
        states = self.states(self.rows([prompt + text for text in texts], max_length))
        if min(map(len, states)) <= skipped:
            return None
        vectors = self._vectors(states, skipped)[:, : served.truncate_dim]
        return (vectors if served.normalize is False else functional.normalize(vectors, dim=-1)).numpy()

    def _prompt_tokens(self, prompt: str, max_length: int) -> int:
        """Return the number of leading tokens that belong to a prompt, without a special token at its end."""
        (row,) = self.rows([prompt], max_length)
        return len(row) - self.tokenizer.backend.encode(prompt).special_tokens_mask[-1]

    def _vectors(self, states: Sequence[torch.Tensor], skipped: int = 0) -> torch.Tensor:
        served = self._deployment
        pools = [_POOLINGS[name] for name in served.pooling_method.split("+")]
        kept = [(h[skipped:], torch.arange(skipped + 1.0, len(h) + 1)) for h in states]
        pooled = torch.stack([torch.cat([pool(h, places) for pool in pools]) for h, places in kept])
        return load_chain(served.modules, self._checkpoint, served.revision)(pooled).float()

    def head(self, name: str) -> dict[str, torch.Tensor]:
        """Return the weight and bias of one of BGE-M3's heads."""
        path = file_finder(self._checkpoint, self._deployment.revision)(f"{name}.pt")
        if path is None:
            raise OSError(f"{self._checkpoint} has no {name}.pt, which a BGE-M3 has")
        head: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value.float() for key, value in head.items()}

    @torch.inference_mode()
    def _each(self, rows: Rows, run: Any, types: Rows | None = None, *, whole: bool = True) -> list[torch.Tensor]:  # noqa: ANN401
        """Return the output of a module for each row. With `whole` it has one entry for each token of the row."""
        results: list[torch.Tensor] = []
        for start in range(0, len(rows), _ROWS_OF_A_BATCH):
            batch = rows[start : start + _ROWS_OF_A_BATCH]
            inputs = self._padded(batch, types[start : start + _ROWS_OF_A_BATCH] if types else None)
            found = run(**inputs).float().cpu()
            results.extend(of_row[: len(row)] if whole else of_row for of_row, row in zip(found, batch, strict=True))
        return results

    def _padded(self, rows: Rows, types: Rows | None) -> dict[str, torch.Tensor]:
        pad = self.tokenizer.id_of("pad_token") or 0
        width = max(1, *map(len, rows))
        fill = {"input_ids": (rows, pad), "attention_mask": ([[1] * len(row) for row in rows], 0)}
        if types is not None:
            fill["token_type_ids"] = (types, 0)
        return {
            name: torch.tensor([[*row, *[value] * (width - len(row))] for row in of]).to(self._device)
            for name, (of, value) in fill.items()
        }

    def _load(self, auto_class: str) -> Any:  # noqa: ANN401 - a transformers model
        if self._module is None:
            import transformers

            module = getattr(transformers, auto_class).from_pretrained(
                self._checkpoint, dtype=torch.float32, **self._source
            )
            if self._deployment.peft is not None:
                module = merge_adapter(module, self._deployment.peft)
            self._module = module.to(self._device).eval()
        return self._module
