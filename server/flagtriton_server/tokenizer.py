# SPDX-License-Identifier: Apache-2.0
"""The tokenizer step: text to ragged token ids. Glue only."""

from __future__ import annotations

import sys

from flagtriton.protocol import EmbedOptions
from flagtriton_server import triton_io
from flagtriton_server.prompts import instructed
from flagtriton_server.settings import TokenizerSettings, read_settings
from flagtriton_server.triton_io import PbRequest, PbResponse

# transformers imports torch wherever it finds it: 1.5 s and 200 MB in a process that needs none of it. None in
# `sys.modules` is Python's own way to say that a module is not to be had.
sys.modules.setdefault("torch", None)  # type: ignore[arg-type]

from flagtriton_server.tokenization import TextBatch, TextTokenizer  # noqa: E402

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer.

        Raises:
            ValueError: the deployment's `max_length` leaves no room beside the special tokens.
        """
        self._settings = read_settings(TokenizerSettings, args["model_config"])
        self._tokenizer = TextTokenizer.from_checkpoint(
            self._settings.checkpoint, self._settings.revision, self._settings.trust_remote_code
        )
        if self._settings.max_length < self._tokenizer.special_count:
            raise ValueError(
                f"max_length is {self._settings.max_length}, but {self._settings.checkpoint} puts "
                f"{self._tokenizer.special_count} special tokens to every text; add it again with a greater one"
            )

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Tokenise all requests at once."""
        return triton_io.respond(requests, self._read, self._tokenizer.encode)

    def _read(self, request: PbRequest) -> TextBatch:
        options = EmbedOptions.from_parameters(
            triton_io.options(request),
            min_length=max(1, self._tokenizer.special_count),
            max_length=self._settings.max_length,
        )
        return TextBatch(
            instructed(triton_io.texts(request), options, self._settings),
            options.max_length or self._settings.max_length,
            options.truncate == "NONE",
        )
