# SPDX-License-Identifier: Apache-2.0
"""Attacks from several threads with good requests between them, and all that must hold while and after."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.robustness.fuzz.attack import Attack
from tests.robustness.fuzz.catalogue import Catalogue
from tests.robustness.fuzz.known import Known, ask_grpc, ask_http, difference
from tests.robustness.fuzz.processes import Holdings, settled_holdings
from tests.robustness.fuzz.serving import Target
from tests.robustness.fuzz.wires import ANSWER_WITHIN_S, Fate, Outcome, Sender

__all__ = ["EVERY", "Campaign", "Findings"]

EVERY = 20
"""One in so many requests is a good one."""

_GROWTH = 0.02
_LAST_SENT = 24
_TRIES = 5
_OF_A_NEIGHBOUR = re.compile("incomplete string data|unexpected number of string elements")
_RAISED = re.compile(
    r".*(Failed to process the request\(s\) for model '[^']*', message: |failed on this batch: )(?P<error>.*)"
)
_OUR_FRAME = re.compile(r"flagtriton_server/(?P<file>\w+\.py)\(\d+\): (?P<name>\w+)")


@dataclass
class Findings:
    """What came of a campaign.

    Attributes:
        fates: how often each kind of attack met each fate.
        broken: what Triton itself said where it called a failure its own, and the numbers of those attacks.
        raised: exceptions that left a step, which fail the requests beside it, too; and the numbers of those attacks.
        violations: number (None for the whole campaign) and sentence of all that must not be.
        good: requests whose answers were compared.
        blamed: how often one of them was refused for the BYTES of another in its batch, before it was asked again.
        before: what the server held after the warm-up; `after`, at the end.
    """

    fates: Counter[tuple[str, Fate]] = field(default_factory=Counter)
    broken: dict[str, list[int]] = field(default_factory=dict)
    raised: dict[str, list[int]] = field(default_factory=dict)
    violations: list[tuple[int | None, str]] = field(default_factory=list)
    good: int = 0
    blamed: int = 0
    before: Holdings | None = None
    after: Holdings | None = None


class Campaign:
    """So many attacks on one server.

    Args:
        target: the server.
        catalogue: what is sent under which number.
        known: good requests with their answers.
        threads: that send at once.
        report: told after each request.
    """

    def __init__(
        self,
        target: Target,
        catalogue: Catalogue,
        known: list[Known],
        threads: int,
        report: Callable[[], Any] = lambda: None,
    ) -> None:
        self._target, self._catalogue, self._known = target, catalogue, known
        self._threads, self._report = threads, report
        self._findings = Findings()
        self._lock = threading.Lock()
        self._last_sent: deque[int] = deque(maxlen=_LAST_SENT)
        self._server_ended = threading.Event()

    def run(self, requests: int, warm_up: int) -> Findings:
        """Send requests 0 to `requests`; compare what the server holds with what it held after `warm_up` of them."""
        senders = [_Clients(self._target) for _ in range(self._threads)]
        for sender in senders:
            sender.ask(self._known[0], over_http=False)  # opens its connection
        pid, found = self._target.pid, self._findings
        try:
            at_first = settled_holdings(pid) if pid is not None else None
            self._send(range(warm_up), senders)
            if self._server_ended.is_set():
                return found
            found.before = settled_holdings(pid) if pid is not None else None
            self._send(range(warm_up, requests), senders)
            if self._server_ended.is_set():
                return found
            for place in range(len(self._known)):
                self._ask(None, place, senders[0])
            if at_first is not None and found.before is not None and pid is not None:
                found.after = settled_holdings(pid, found.before.all_files)
                self._compare(at_first, found.before, found.after)
        finally:
            for sender in senders:
                sender.close()
        return found

    def send_one(self, number: int) -> tuple[Attack | Known, Outcome | None]:
        """Send the request with this number alone; return it, and the fate of an attack."""
        clients = _Clients(self._target)
        try:
            if _is_good(number):
                place = number // EVERY % len(self._known)
                self._ask(number, place, clients)
                return self._known[place], None
            return self._catalogue.attack(number), self._attack(number, clients)
        finally:
            clients.close()

    @property
    def findings(self) -> Findings:
        """What has been found so far."""
        return self._findings

    def _send(self, numbers: range, senders: list[_Clients]) -> None:
        left = iter(numbers)

        def work(clients: _Clients) -> None:
            while not self._server_ended.is_set() and (number := self._taken_from(left)) is not None:
                if _is_good(number):
                    self._ask(number, number // EVERY % len(self._known), clients)
                else:
                    self._attack(number, clients)
                self._report()

        with ThreadPoolExecutor(len(senders)) as pool:
            for done in [pool.submit(work, clients) for clients in senders]:
                done.result()

    def _taken_from(self, numbers: Iterator[int]) -> int | None:
        with self._lock:
            number = next(numbers, None)
            if number is not None:
                self._last_sent.append(number)
            return number

    def _attack(self, number: int, clients: _Clients) -> Outcome:
        attack = self._catalogue.attack(number)
        outcome = clients.sender.send(attack)
        if outcome.fate is Fate.AWAY:
            self._look_whether_it_ended()
        with self._lock:
            self._findings.fates[attack.kind, outcome.fate] += 1
            if outcome.fate is Fate.FAILED:
                self._failed(number, attack, outcome)
            if outcome.fate is Fate.HUNG:
                self._violation(number, f"{attack.kind}, {attack.model}: no answer, and not closed")
            if outcome.fate is Fate.SUCCESS and attack.must_fail:
                self._violation(number, f"{attack.kind}, {attack.model}: answered with success")
        return outcome

    def _failed(self, number: int, attack: Attack, outcome: Outcome) -> None:
        raised = _RAISED.match(outcome.message)
        if raised is None:
            self._findings.broken.setdefault(f"{outcome.code}: {_alike(outcome.message)}", []).append(number)
            return
        place = _OUR_FRAME.search(outcome.message)
        sentence = f"{raised['error']} in {place['file']}, {place['name']}" if place else raised["error"]
        self._findings.raised.setdefault(_alike(sentence), []).append(number)
        if attack.model in {model.name for model in self._catalogue.world.public}:
            self._violation(number, f"{attack.kind}, {attack.model}: a step raised {sentence}")

    def _ask(self, number: int | None, place: int, clients: _Clients) -> None:
        known = self._known[place]
        try:
            wrong = difference(known, self._answer(known, clients, over_http=bool(place % 2)))
        except (InferenceServerException, OSError) as error:
            wrong = f"{known.request.model}, a good request: {error}"
            self._look_whether_it_ended()
        with self._lock:
            self._findings.good += 1
            if wrong is not None:
                self._violation(number, wrong)

    def _answer(self, known: Known, clients: _Clients, *, over_http: bool) -> Mapping[str, Any]:
        """Ask again where Triton's Python backend refused a whole batch for the BYTES of one request in it."""
        for _ in range(_TRIES):
            try:
                return clients.ask(known, over_http=over_http)
            except InferenceServerException as error:
                if not _OF_A_NEIGHBOUR.search(str(error)):
                    raise
                with self._lock:
                    self._findings.blamed += 1
        return clients.ask(known, over_http=over_http)

    def _look_whether_it_ended(self) -> None:
        """Stop all threads where nothing listens any more, and say what was sent last."""
        try:
            socket.create_connection(self._target.http_address, timeout=ANSWER_WITHIN_S).close()
        except OSError as error:
            with self._lock:
                if not self._server_ended.is_set():
                    self._violation(None, f"the server has ended ({error}); sent last: {list(self._last_sent)}")
                self._server_ended.set()

    def _compare(self, first: Holdings, before: Holdings, after: Holdings) -> None:
        gone, new = first.processes - after.processes, after.processes - first.processes
        if gone or new:
            self._violation(None, f"processes that ended: {sorted(gone)}; that are new: {sorted(new)}")
        growth = after.all_rss_mb / before.all_rss_mb - 1
        if growth > _GROWTH:
            self._violation(None, f"resident memory grew by {growth:.1%}, more than {_GROWTH:.0%}")
        if after.all_files > before.all_files:
            self._violation(None, f"open files: {before.all_files} after the warm-up, {after.all_files} at the end")

    def _violation(self, number: int | None, sentence: str) -> None:
        self._findings.violations.append((number, sentence))


class _Clients:
    """One thread's connections: for attacks, and for good requests over either wire."""

    def __init__(self, target: Target) -> None:
        self.sender = Sender(target)
        self._grpc = tritonclient.grpc.InferenceServerClient(target.grpc)
        self._http = target.http

    def ask(self, known: Known, *, over_http: bool) -> dict[str, Any]:
        if not over_http:
            return ask_grpc(self._grpc, known.request)
        within = {"connection_timeout": ANSWER_WITHIN_S, "network_timeout": ANSWER_WITHIN_S}
        with tritonclient.http.InferenceServerClient(self._http, **within) as client:  # each stays in one thread
            return ask_http(client, known.request)

    def close(self) -> None:
        self.sender.close()
        self._grpc.close()


def _is_good(number: int) -> bool:
    return number % EVERY == EVERY - 1


def _alike(message: str) -> str:
    """Return a message without the numbers and quoted names that make two of a kind differ."""
    return re.sub(r"'[^']*'", "'…'", re.sub(r"\d+", "N", message))[:300]
