# SPDX-License-Identifier: Apache-2.0
"""Compares a deployment with sentence-transformers and FlagEmbedding, if they are installed.

Both libraries tokenise with the installed transformers. If its ids differ from those of the checkpoint's own files, the
vectors differ for that reason. The row then says so, and is no mismatch of the deployment.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton_tools.verify.checks import Check, Limits, compare_vectors, skipped
from flagtriton_tools.verify.plain import PlainModel
from flagtriton_tools.verify.served import ServedDeployment

__all__ = ["library_checks"]

LIBRARIES: Final = {"sentence-transformers": "sentence_transformers", "flagembedding": "FlagEmbedding"}
"""Names of the libraries, and the modules by which they are found."""

_LENGTH = 512
_OF_FLAGEMBEDDING = ("cls", "mean", "last_token")


def library_checks(
    served: ServedDeployment,
    plain: PlainModel,
    checkpoint: str,
    texts: list[str],
    wanted: Sequence[str] | None,
) -> Iterator[Check]:
    """Yield one comparison for each library. None means all libraries that are installed."""
    if served.deployment.task == "rerank":
        return
    for name, module in LIBRARIES.items():
        if wanted is not None and name not in wanted:
            continue
        what = f"dense, {name}"
        if importlib.util.find_spec(module) is None:
            if wanted is not None:
                yield skipped(what, f"not installed: pip install {name}")
        elif (reason := _reason_against(name, served.deployment, checkpoint)) is not None:
            yield skipped(what, reason)
        else:
            yield _compare(what, _ENCODE[name], served, plain, checkpoint, texts)


def _reason_against(library: str, served: Deployment, checkpoint: str) -> str | None:
    """Return the reason why a library computes something else than the deployment, or None if there is none."""
    if library == "sentence-transformers":
        if served.definition == "ignored":
            return "the deployment was added with --no-modules"
        return None if (Path(checkpoint) / "modules.json").is_file() else "the checkpoint has no modules.json"
    if served.peft is not None:
        return "FlagEmbedding does not load adapters"
    if served.modules is not None or served.lower_case or served.pooling_method not in _OF_FLAGEMBEDDING:
        return "FlagEmbedding reads none of sentence-transformers' files, which define more than a pooling of its own"
    return None


def _compare(
    what: str,
    encode: Callable[..., tuple[NDArray[np.float32], list[list[int]]]],
    served: ServedDeployment,
    plain: PlainModel,
    checkpoint: str,
    texts: list[str],
) -> Check:
    most = min(_LENGTH, served.deployment.max_length)
    try:
        theirs, ids = encode(served.deployment, checkpoint, texts, most)
    except Exception as error:  # a library may raise any error for a checkpoint that it cannot load
        return skipped(what, f"cannot run this checkpoint: {type(error).__name__}: {error}".splitlines()[0])
    unlike = sum(mine != other for mine, other in zip(plain.rows(texts, most), ids, strict=True))
    if unlike:
        from transformers import __version__

        return skipped(what, f"transformers {__version__} gives other token ids for {unlike} of {len(texts)} texts")
    ours = served.dense(texts, EmbedOptions(max_length=most))
    return compare_vectors(what, texts, ours, theirs, Limits.of(served.deployment.precision))


def _sentence_transformers(
    deployment: Deployment,
    checkpoint: str,
    texts: list[str],
    most: int,
) -> tuple[NDArray[np.float32], list[list[int]]]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(checkpoint, device="cpu", trust_remote_code=deployment.trust_remote_code)
    model.max_seq_length, model.truncate_dim = most, None
    vectors = model.encode(texts, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False, prompt="")
    return vectors, _ids(model.tokenizer, texts, most)


def _flagembedding(
    deployment: Deployment,
    checkpoint: str,
    texts: list[str],
    most: int,
) -> tuple[NDArray[np.float32], list[list[int]]]:
    from FlagEmbedding import FlagAutoModel

    model = FlagAutoModel.from_finetuned(
        checkpoint,
        model_class=deployment.model_class,
        pooling_method=deployment.pooling_method,
        trust_remote_code=deployment.trust_remote_code,
        use_fp16=False,
        devices="cpu",
    )
    found = model.encode(texts, max_length=most, batch_size=16)
    vectors = found["dense_vecs"] if isinstance(found, dict) else found
    return vectors, _ids(model.tokenizer, texts, most)


def _ids(tokenizer: Any, texts: list[str], most: int) -> list[list[int]]:  # noqa: ANN401 - a transformers tokenizer
    return [list(row) for row in tokenizer(texts, truncation=True, max_length=most).input_ids]


_ENCODE: Final = {"sentence-transformers": _sentence_transformers, "flagembedding": _flagembedding}
