# SPDX-License-Identifier: Apache-2.0
"""Reads a SentencePiece model file (`sentencepiece.bpe.model`, `tokenizer.model`, `spm.model`, …).

This module describes the protobuf message field by field. Modules that `protoc` generates each require one range of
protobuf releases, and the embedded server needs an old release. Field numbers are those of `sentencepiece_model.proto`.
The module does not depend on checkpoints or tokenizer classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

__all__ = ["BPE", "CONTROL", "UNIGRAM", "USER_DEFINED", "SentencePieceModel", "model_message"]

UNIGRAM: Final = 1
BPE: Final = 2
"""Values of `TrainerSpec.model_type`."""

CONTROL: Final = 3
USER_DEFINED: Final = 4
"""Values of `SentencePiece.type`."""

_PACKAGE = "flagtriton.sentencepiece"
_FIELDS: dict[str, dict[str, tuple[int, str, Any]]] = {
    "SentencePiece": {
        "piece": (1, "STRING", None),
        "score": (2, "FLOAT", None),
        "type": (3, "INT32", 1),
    },
    "TrainerSpec": {
        "model_type": (3, "INT32", UNIGRAM),
        "byte_fallback": (35, "BOOL", None),
        "unk_id": (40, "INT32", 0),
        "unk_piece": (45, "STRING", "<unk>"),
    },
    "NormalizerSpec": {
        "precompiled_charsmap": (2, "BYTES", None),
    },
    "ModelProto": {
        "pieces": (1, "SentencePiece", None),
        "trainer_spec": (2, "TrainerSpec", None),
        "normalizer_spec": (3, "NormalizerSpec", None),
    },
}
"""The fields that are read from each message: number, type and default. Other fields are skipped."""


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; `type` is 1 (normal), 2 (unknown), `CONTROL`, `USER_DEFINED`, 5 or 6 (byte)."""

    piece: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceModel:
    """The part of a model file that a tokenizer needs.

    Attributes:
        pieces: the vocabulary, by id.
        model_type: `UNIGRAM`, `BPE`, or another type that Rust tokenizers do not have.
        unk_id: id of the unknown piece.
        unk_piece: text of the unknown piece.
        charsmap: the precompiled normalization; empty if there is none.
    """

    pieces: list[Piece]
    model_type: int
    unk_id: int
    unk_piece: str
    charsmap: bytes

    @classmethod
    def read(cls, file: Path) -> SentencePieceModel:
        """Read a model file.

        Raises:
            ValueError: the file is no SentencePiece model.
        """
        message = model_message()()
        try:
            message.ParseFromString(file.read_bytes())
        except DecodeError as error:
            raise ValueError(f"{file} is no SentencePiece model ({error}); download it again") from error
        if not message.pieces:
            raise ValueError(f"{file} is a SentencePiece model without pieces; download it again")
        trainer = message.trainer_spec
        return cls(
            [Piece(piece.piece, piece.score, piece.type) for piece in message.pieces],
            trainer.model_type,
            trainer.unk_id,
            trainer.unk_piece,
            message.normalizer_spec.precompiled_charsmap,
        )


@cache
def model_message() -> type[Any]:
    """Return the class of `ModelProto` messages, with the fields above."""
    file = descriptor_pb2.FileDescriptorProto(name="flagtriton_sentencepiece.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind, default) in fields.items():
            _add_field(message, field_name, number, kind, default)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto"))


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str, default: object) -> None:
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if name == "pieces" else field.LABEL_OPTIONAL
    if kind in _FIELDS:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind}")
    if default is not None:
        field.default_value = str(default)
