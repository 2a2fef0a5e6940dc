# SPDX-License-Identifier: Apache-2.0
"""Bytes at random, and bytes with something broken in them."""

from __future__ import annotations

from random import Random

__all__ = ["mutated", "random_bytes"]

_INSERTED = (b"\x00", b"\xff" * 4, b'"', b"[", b"{", b"}", b",", b"\\", b"9" * 30, b"-", b"\xed\xa0\x80", b"e999")


def random_bytes(rng: Random, count: int) -> bytes:
    """Return so many of them, all values alike."""
    return rng.randbytes(count)


def mutated(content: bytes, rng: Random) -> bytes:
    """Return the content with one to four bits flipped, pieces cut, repeated or inserted."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(changed) + 1)
        size = rng.choice([1, 1, 2, 8, 40])
        how = rng.choice(["flip", "flip", "cut", "insert", "repeat", "end"])
        if how == "flip" and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del changed[place : place + size]
        elif how == "insert":
            changed[place:place] = rng.choice([random_bytes(rng, size), rng.choice(_INSERTED)])
        elif how == "repeat":
            changed[place:place] = changed[place : place + size] * rng.choice([1, 3, 200])
        elif how == "end" and rng.random() < 0.3:
            del changed[place:]
    return bytes(changed)
