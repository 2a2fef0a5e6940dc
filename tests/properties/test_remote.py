# SPDX-License-Identifier: Apache-2.0
"""Properties of `served` and `dispatch`: many texts through a server in trouble are answered as each by itself."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flagtriton import FlagModel
from flagtriton.errors import FlagTritonError, ModelNotServedError, RequestTimeoutError, ServerUnavailableError
from flagtriton.protocol.tensors import DENSE_VECS
from flagtriton.remote.pool import Dispatcher
from flagtriton.transport.base import InferenceReply
from flagtriton.transport.fake import FakeTransport, Request
from tests.support.fake_models import METHODS, NAME, fake_server, texts_of

EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

TEXT = st.sampled_from(["", "a", "bb", "é", "人工", "🙂\0"]) | st.text(max_size=8)
"""Some that come again and again."""
TEXTS = st.lists(TEXT, max_size=12)
ROWS, BYTES = st.integers(1, 6), st.integers(1, 40)

DIMENSION = 4
TEMPORARY: list[type[FlagTritonError]] = [ServerUnavailableError, RequestTimeoutError, ModelNotServedError]
GIVEN_UP_S = 20.0


def digest(*texts: str) -> list[float]:
    """Return numbers that float32 holds exactly, and that no other texts have."""
    data = hashlib.sha256(repr(texts).encode()).digest()
    return [float(number % 2**20) for number in np.frombuffer(data, np.uint32)[:DIMENSION]]


def answer_with_digests(request: Request) -> InferenceReply:
    return {DENSE_VECS.name: np.array([digest(text) for text in texts_of(request)], np.float32)}


@dataclass(frozen=True)
class Trouble:
    """How many requests are under way at once, how often each may be refused, and what draws the rest."""

    concurrency: int
    retries: int
    seed: int


TROUBLES = st.builds(Trouble, st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**32))


@dataclass
class Unruly:
    """What a server answers that refuses requests now and then, and replies in an order that is drawn.

    Requests are held until as many are under way as can be. Then one of them may go: it is refused, and comes again, or
    it is answered.

    Attributes:
        answer: what each request gets in the end.
        open: requests that have no answer yet.
        trouble: of its retries, a request needs none to all.
        answered: the requests that were, in that order.
    """

    answer: Callable[[Request], InferenceReply]
    open: int
    trouble: Trouble
    answered: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.trouble.seed)
        self._held: list[str] = []
        self._free: Counter[str] = Counter()
        self._refusals: dict[str, list[type[FlagTritonError]]] = {}
        self._changed = threading.Condition()

    def __call__(self, request: Request) -> InferenceReply:
        key = repr([values.tolist() for values in request.inputs.values()])
        with self._changed:
            refusals = self._refusals.setdefault(key, self._drawn_refusals(key))
            self._held.append(key)
            self._free_one()
            if not self._changed.wait_for(lambda: self._free[key] > 0, GIVEN_UP_S):
                raise TimeoutError(f"{self.open} requests have no answer, but only {len(self._held)} came")
            self._free[key] -= 1
            if refusals:
                raise refusals.pop()("not now")
            self.open -= 1
            self.answered.append(request)
            self._free_one()
        return self.answer(request)

    def _drawn_refusals(self, key: str) -> list[type[FlagTritonError]]:
        drawn = Random(f"{self.trouble.seed} {key}")
        return drawn.choices(TEMPORARY, k=drawn.randint(0, self.trouble.retries))

    def _free_one(self) -> None:
        if self._held and len(self._held) == min(self.trouble.concurrency, self.open):
            self._held.sort()
            self._free[self._held.pop(self._random.randrange(len(self._held)))] += 1
            self._changed.notify_all()


def in_trouble(quiet: FakeTransport, trouble: Trouble) -> tuple[FakeTransport, Unruly]:
    """Return the same server in trouble, for a call that a server without any has just answered, and its answers."""
    unruly = Unruly(quiet.answer, len(quiet.requests), trouble)
    return FakeTransport(unruly, quiet.configs), unruly


@pytest.fixture(scope="module", autouse=True)
def no_waits() -> Iterator[None]:
    """Try again at once."""
    with mock.patch("tenacity.sleep_using_event", return_value=lambda seconds: None):
        yield


@EXAMPLES
@given(
    texts=TEXTS,
    method=st.sampled_from(METHODS),
    batch_size=ROWS,
    max_batch_size=ROWS,
    max_bytes=BYTES,
    trouble=TROUBLES,
)
def test_every_text_gets_its_own_vector_and_is_answered_once(
    texts: list[str], method: str, batch_size: int, max_batch_size: int, max_bytes: int, trouble: Trouble
) -> None:
    def vectors(fake: FakeTransport, asked: list[str] | str, concurrency: int = 1) -> NDArray[np.float32]:
        named = {"batch_size": batch_size, "concurrency": concurrency, "retries": trouble.retries, "transport": fake}
        with FlagModel(NAME, query_instruction_for_retrieval="q: ", **named) as model:
            return getattr(model, method)(asked)

    def served() -> FakeTransport:
        return fake_server(answer_with_digests, max_batch_size=max_batch_size)

    alone = np.array([vectors(served(), text) for text in texts], np.float32).reshape(-1, DIMENSION)
    with mock.patch("flagtriton.remote.model._BYTES_PER_REQUEST", max_bytes):
        quiet = served()
        one_after_another = vectors(quiet, texts)
        fake, unruly = in_trouble(quiet, trouble)
        together = vectors(fake, texts, trouble.concurrency)
    np.testing.assert_array_equal(one_after_another, alone)
    np.testing.assert_array_equal(together, alone)
    sent = [f"q: {text}" if method == "encode_queries" else text for text in texts] or [""]
    assert Counter(text for request in unruly.answered for text in texts_of(request)) == Counter(sent)
    np.testing.assert_array_equal(alone, np.array([digest(text) for text in sent if texts], np.float32).reshape(-1, 4))


@EXAMPLES
@given(texts=TEXTS, batch_size=ROWS, max_batch_size=ROWS, max_bytes=BYTES)
def test_no_request_is_greater_than_asked_for_and_served(
    texts: list[str], batch_size: int, max_batch_size: int, max_bytes: int
) -> None:
    fake = fake_server(answer_with_digests, max_batch_size=max_batch_size)
    with (
        mock.patch("flagtriton.remote.model._BYTES_PER_REQUEST", max_bytes),
        FlagModel(NAME, batch_size=batch_size, transport=fake) as model,
    ):
        model.encode(texts)
    for sent in map(texts_of, fake.requests):
        assert 1 <= len(sent) <= min(batch_size, max_batch_size)
        assert len(sent) == 1 or len("".join(sent).encode()) <= max_bytes


@settings(EXAMPLES, max_examples=30)
@given(lists=st.lists(TEXTS, min_size=2, max_size=3), batch_size=ROWS, concurrency=st.integers(1, 4))
def test_callers_that_share_an_object_get_each_their_own(
    lists: list[list[str]], batch_size: int, concurrency: int
) -> None:
    def answer(request: Request) -> InferenceReply:
        time.sleep(digest(*texts_of(request))[0] / 2**20 / 1_000)  # no wait for anything: up to 1 ms, to mix them up
        return answer_with_digests(request)

    with (
        FlagModel(NAME, batch_size=batch_size, concurrency=concurrency, transport=fake_server(answer)) as model,
        ThreadPoolExecutor(len(lists)) as callers,
    ):
        answers = list(callers.map(model.encode, lists))
    for texts, vectors in zip(lists, answers, strict=True):
        np.testing.assert_array_equal(vectors, np.array([digest(text) for text in texts]).reshape(-1, DIMENSION))


@EXAMPLES
@given(count=st.integers(1, 15), concurrency=st.integers(1, 4), data=st.data())
def test_no_request_is_sent_once_the_caller_has_given_up(count: int, concurrency: int, data: st.DataObject) -> None:
    taken = data.draw(st.integers(1, count))
    allowed = threading.Semaphore(taken)
    sent: list[int] = []

    def send(rows: NDArray[np.int64], _: threading.Event) -> InferenceReply:
        sent.extend(rows.tolist())
        assert allowed.acquire(timeout=GIVEN_UP_S)
        return {"rows": rows}

    dispatcher = Dispatcher(concurrency)
    replies = dispatcher.replies(send, [np.array([row]) for row in range(count)])
    got = [next(replies) for _ in range(taken)]
    replies.close()
    allowed.release(count)
    dispatcher.release()
    assert all(reply["rows"] is rows for rows, reply in got)
    assert len({rows.item() for rows, _ in got}) == taken
    assert len(sent) == len(set(sent)) <= taken + concurrency  # which of them, a slow thread may decide


@EXAMPLES
@given(texts=st.lists(TEXT, min_size=1, max_size=8), batch_size=ROWS, retries=st.integers(0, 3), more=st.booleans())
def test_a_text_is_tried_as_often_as_retries_allow_and_no_more(
    texts: list[str], batch_size: int, retries: int, more: bool
) -> None:
    failures: Counter[str] = Counter()

    def answer(request: Request) -> InferenceReply:
        key = repr(texts_of(request))
        if failures[key] < retries + more:
            failures[key] += 1
            raise ServerUnavailableError("busy")
        return answer_with_digests(request)

    fake = fake_server(answer)
    named = {"batch_size": batch_size, "concurrency": 1, "retries": retries, "transport": fake}
    with FlagModel(NAME, **named) as model:
        if more:
            with pytest.raises(ServerUnavailableError, match="busy"):
                model.encode(texts)
        else:
            expected = np.array([digest(text) for text in texts], np.float32)
            np.testing.assert_array_equal(model.encode(texts), expected)
    assert max(failures.values(), default=0) == retries + more
