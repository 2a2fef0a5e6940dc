# SPDX-License-Identifier: Apache-2.0
"""The load of a soak: threads that call the SDK, open and close it, send nonsense, and give up early."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any

from flagtriton import FlagModel, InvalidRequestError, ModelNotServedError
from tests.conftest import Served
from tests.robustness.fuzz.attack import Attack, Manner
from tests.robustness.fuzz.catalogue import HARMS_ITS_BATCH, Catalogue
from tests.robustness.fuzz.models import served_models
from tests.robustness.fuzz.serving import Target
from tests.robustness.fuzz.wires import Fate, Sender
from tests.robustness.soak.calls import CALLS, Call, differs

__all__ = ["MALFORMED", "MIXED", "Load", "MetricsPublisher"]

MIXED = {"call": 70, "new client": 8, "refused call": 6, "malformed request": 14, "given up": 2}
"""What a thread does next, in parts of a hundred."""

MALFORMED = {"malformed request": 100}


@dataclass
class MetricsPublisher:
    """What has happened so far.

    Attributes:
        done: how often each thing was done.
        latencies_s: of calls, since they were last taken.
        wrong: answers that differ; `errors`, what should not have been raised.
    """

    done: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Load:
    """So many threads on one server, until told to stop.

    Args:
        served: the tests' server.
        threads: that call at once.
        seed: of what they do next.
        shares: of what they may do, in parts of a hundred.
    """

    def __init__(
        self, served: Served, threads: int, seed: int = 1, shares: Mapping[str, int] = MappingProxyType(MIXED)
    ) -> None:
        self._shares = shares
        self._urls = (served.grpc_url, served.http_url)
        self._target = Target.of(served)
        self._threads, self._seed = threads, seed
        self._catalogue = Catalogue(served_models(self._target.http), seed)
        self._numbers = itertools.count()
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._tally = MetricsPublisher()
        self._right: dict[str, Any] = {}

    @property
    def tally(self) -> MetricsPublisher:
        """What has happened so far."""
        return self._tally

    def learn(self) -> None:
        """Ask for all right answers, one after another, while nothing else runs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for call in CALLS:
                with call.open(self._urls[0]) as model:
                    self._right[call.name] = call.ask(model)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the load up until the block ends."""
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self._threads)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def taken_latencies_s(self) -> list[float]:
        """Return the latencies since this was last asked."""
        with self._lock:
            taken, self._tally.latencies_s = self._tally.latencies_s, []
        return taken

    def _work(self, number: int) -> None:
        rng = Random(f"{self._seed}:{number}")
        clients: dict[tuple[str, str, str], Any] = {}
        sender = Sender(self._target)
        deeds: dict[str, Callable[[], None]] = {
            "call": lambda: self._call(rng, clients),
            "new client": lambda: self._new_client(rng),
            "refused call": lambda: self._refused(rng),
            "malformed request": lambda: self._malformed(sender, leaves=False),
            "given up": lambda: self._malformed(sender, leaves=True),
        }
        try:
            while not self._stopped.is_set():
                deed = rng.choices(list(self._shares), weights=list(self._shares.values()))[0]
                self._tried(deed, deeds[deed])
        finally:
            sender.close()
            for client in clients.values():
                client.close()

    def _tried(self, deed: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # whatever it is, it is a finding
            with self._lock:
                self._tally.errors.append(f"{deed}: {''.join(traceback.format_exception(error))}")
        with self._lock:
            self._tally.done[deed] += 1

    def _call(self, rng: Random, clients: dict[tuple[str, str, str], Any]) -> None:
        call, url = rng.choice(CALLS), rng.choice(self._urls)
        key = call.model, str(call.make), url
        if key not in clients:
            clients[key] = call.open(url)
        self._compare(call, clients[key])

    def _new_client(self, rng: Random) -> None:
        call, url = rng.choice(CALLS), rng.choice(self._urls)
        with call.open(url) as model:
            self._compare(call, model)

    def _compare(self, call: Call, model: Any) -> None:
        start = time.perf_counter()
        answer = call.ask(model)
        seconds = time.perf_counter() - start
        wrong = differs(answer, self._right[call.name], call.bound)
        with self._lock:
            self._tally.latencies_s.append(seconds)
            if wrong:
                self._tally.wrong.append(call.name)

    def _refused(self, rng: Random) -> None:
        """Make a mistake with the SDK, and expect the exception that belongs to it."""
        url = rng.choice(self._urls)
        try:
            if rng.random() < 0.3:
                FlagModel("no-such-model", url=url, use_fp16=False)
            else:
                with FlagModel("bert-cls", url=url, use_fp16=False) as model:
                    model.encode(["x"] * 3, max_length=rng.choice([0, -5, 10**9]))
        except (InvalidRequestError, ModelNotServedError):
            return
        raise AssertionError("a call that is wrong was answered")

    def _malformed(self, sender: Sender, *, leaves: bool) -> None:
        """Send one of the fuzz test's requests; with `leaves`, one whose client does not wait."""
        number, attack = next(
            (number, attack)
            for number, attack in ((number, self._catalogue.attack(number)) for number in self._numbers)
            if (attack.manner is Manner.LEAVES) == leaves and (leaves or _harmless(attack))
        )
        outcome = sender.send(attack)
        if outcome.fate is Fate.HUNG or (attack.must_fail and outcome.fate is Fate.SUCCESS):
            said = f"{attack.kind}, {attack.model}, {attack.wire.value}: {outcome.fate.value}"
            raise AssertionError(f"attack {number} of seed {self._seed}: {said}")


def _harmless(attack: Attack) -> bool:
    """Return whether a request is certainly wrong, and refused without harm to others in its batch."""
    return attack.must_fail and attack.kind not in HARMS_ITS_BATCH
