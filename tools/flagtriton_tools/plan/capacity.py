# SPDX-License-Identifier: Apache-2.0
"""Computes the number of servers for a load, and their resources: rates, simulated queues, memory and network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flagtriton_tools.errors import ToolError
from flagtriton_tools.plan.devices import EFFICIENCY, GPUS, MEASURED
from flagtriton_tools.plan.scenario import Outcome, Server, Traffic
from flagtriton_tools.plan.simulation import simulate
from flagtriton_tools.plan.sizes import flops_per_token, parameters
from flagtriton_tools.shapes import SHAPES

__all__ = ["Load", "Plan", "make_plan", "request_tokens"]

_BYTES_OF_A_WEIGHT = 2
_BYTES_OF_A_TOKEN = 4
"""Bytes of English text per token in UTF-8; Chinese has fewer."""

_PROCESS_BYTES = 250e6
"""Memory of a step that imports torch, bytes. A deployment has up to three such steps, and the server one process."""

_PASS_S = {"cpu": 0.004, "gpu": 0.003}
_REQUEST_S = 0.0004
_TOKENISED_PER_S = 400_000.0
_FIXED_S = 0.003
_SEED = 1
_LEAST_REQUESTS_SIMULATED = 10_000
_REQUESTS_OF_A_SERVER = 1_500
"""Minimum number of simulated requests per server, so that a growing queue becomes visible."""

_MOST_SIMULATED = 16
"""Maximum number of simulated servers. More servers behave almost like this number with its share of the load."""


@dataclass(frozen=True)
class Load:
    """Load to serve.

    Attributes:
        shape: key of `SHAPES`.
        requests_per_s: mean rate of requests, which are Poisson arrivals.
        tokens: mean number of tokens of a text.
        spread: standard deviation of the logarithm of the lengths of texts; 0 makes all lengths equal.
        texts: number of texts of a request.
        p95_s: limit for the 95th percentile of the latency, also while the spare servers are away, seconds.
        tokenizers: number of tokenizer processes of a server.
    """

    shape: str
    requests_per_s: float
    tokens: float
    spread: float = 0.6
    texts: int = 1
    p95_s: float = 0.25
    tokenizers: int = 1

    @property
    def tokens_of_a_request(self) -> float:
        """Mean number of tokens of a request."""
        return self.tokens * self.texts

    @property
    def tokens_per_s(self) -> float:
        """Mean number of tokens that arrive per second."""
        return self.requests_per_s * self.tokens_of_a_request


@dataclass(frozen=True)
class Plan:
    """Servers for a load, and their resources.

    Attributes:
        servers: number of servers, with the spare ones.
        spare: number of servers that may fail.
        gpus: number of GPUs, one for each server; 0 on CPUs.
        tokens_per_s: tokens that arrive per second.
        server_tokens_per_s: tokens that one server encodes per second in bulk.
        busy: share of the time in which an encoder works while all servers are up, 0 to 1.
        p50_s: median latency of all requests while all servers are up, seconds.
        p95_s: 95th percentile of the same latency, seconds.
        p95_failing_s: 95th percentile of the latency while the spare servers are away, seconds.
        memory_bytes: minimum memory of each server's processes, or of its GPU.
        shared_memory_bytes: size of each server's `/dev/shm`.
        in_bytes_per_s: bytes that all servers together receive per second.
        out_bytes_per_s: bytes that all servers together send per second, as vectors of 4-byte numbers.
        assumptions: assumptions of the plan, one sentence each.
    """

    servers: int
    spare: int
    gpus: int
    tokens_per_s: float
    server_tokens_per_s: float
    busy: float
    p50_s: float
    p95_s: float
    p95_failing_s: float
    memory_bytes: float
    shared_memory_bytes: float
    in_bytes_per_s: float
    out_bytes_per_s: float
    assumptions: tuple[str, ...]


def make_plan(load: Load, *, gpu: str | None = None, tokens_per_s: float | None = None, spare: int = 1) -> Plan:
    """Return the smallest number of servers that keep the load's p95 while `spare` of them are away.

    Args:
        load: load to serve.
        gpu: key of `GPUS`; None means a CPU.
        tokens_per_s: measured rate of one server; None uses a known rate or, for GPUs, a share of the data sheet's.
        spare: number of servers that may be away.

    Raises:
        ToolError: the shape or GPU is unknown, a CPU's rate is unknown, or no number of servers is fast enough.
    """
    rate, source = _rate(load, gpu, tokens_per_s)
    server = Server(
        tokens_per_s=rate,
        token_budget=65_536 if gpu else 4_096,
        pass_s=_PASS_S["gpu" if gpu else "cpu"],
        request_s=_REQUEST_S / load.tokenizers,
        request_tokens_per_s=_TOKENISED_PER_S * load.tokenizers,
        fixed_s=_FIXED_S,
    )
    needed = _fewest(load, server)
    servers = needed + spare
    whole, failing = _simulated(load, server, servers), _simulated(load, server, needed)
    shape = SHAPES[load.shape]
    weights = parameters(shape) * _BYTES_OF_A_WEIGHT
    between_steps = load.texts * shape.hidden_size * 4.0
    assumptions = (
        source,
        f"text lengths are log-normal about {load.tokens:g} tokens (spread {load.spread:g}); {load.texts} in a request",
        "requests come independently of each other, and the balancer knows what is in flight (the SDK's does)",
        f"a turn of the encoder costs {server.pass_s * 1e3:g} ms beside its tokens, "
        f"a request {_FIXED_S * 1e3:g} ms of transport and pooling",
        f"a tokenizer process, of which a server has {load.tokenizers}, needs {_REQUEST_S * 1e3:g} ms for a request "
        f"and tokenises {_TOKENISED_PER_S:,.0f} tokens/s: --tokenizer-instances has more of them",
        f"a text is {_BYTES_OF_A_TOKEN} bytes a token, a vector {shape.hidden_size} numbers of 4 bytes",
        "weights are in half precision; in fp32 memory doubles and a server is a third as fast or less",
    )
    return Plan(
        servers,
        spare,
        servers if gpu else 0,
        load.tokens_per_s,
        rate,
        whole.busy,
        whole.percentile_s(50),
        whole.percentile_s(95),
        failing.percentile_s(95),
        weights + (2e9 if gpu else 4 * _PROCESS_BYTES),
        64e6 + 2 * between_steps * load.requests_per_s / servers * max(0.05, whole.percentile_s(95)),
        load.tokens_per_s * _BYTES_OF_A_TOKEN,
        load.requests_per_s * load.texts * shape.hidden_size * 4.0,
        assumptions,
    )


def request_tokens(load: Load, requests: int, seed: int = _SEED) -> NDArray[np.int64]:
    """Return `[N]` tokens of requests: sums of log-normal lengths of at least 1, with the mean of the load."""
    rng = np.random.default_rng(seed)
    mu = math.log(load.tokens) - load.spread**2 / 2
    lengths = np.maximum(1, rng.lognormal(mu, load.spread, (requests, load.texts)).round())
    return lengths.sum(axis=1).astype(np.int64)


def _rate(load: Load, gpu: str | None, given: float | None) -> tuple[float, str]:
    """Return the tokens per second of one server, and the source of that number."""
    if load.shape not in SHAPES:
        raise ToolError(f"--shape is {load.shape}; known are {', '.join(SHAPES)}")
    if gpu is not None and gpu not in GPUS:
        raise ToolError(f"--gpu is {gpu}; known are {', '.join(GPUS)}")
    if given is not None:
        return given, f"one server encodes {given:,.0f} tokens/s, as you said"
    if (measured := MEASURED.get((load.shape, gpu or "cpu"))) is not None:
        return measured.tokens_per_s, f"one server encodes {measured.tokens_per_s:,.0f} tokens/s ({measured.source})"
    if gpu is None:
        raise ToolError(
            f"nobody has measured {load.shape} on a processor: measure it on yours with `flagtriton bench --shape "
            f"{load.shape}` and pass --tokens-per-s"
        )
    estimated = GPUS[gpu].flops * EFFICIENCY / flops_per_token(SHAPES[load.shape], load.tokens)
    return estimated, (
        f"NOT MEASURED: one server encodes {estimated:,.0f} tokens/s, {EFFICIENCY:.0%} of what {gpu}'s data sheet "
        f"promises; measure it with `flagtriton bench --shape {load.shape} --device gpu:0` and pass --tokens-per-s"
    )


def _fewest(load: Load, server: Server) -> int:
    """Return the smallest number of servers that keep the p95."""
    alone = _simulated(replace(load, requests_per_s=0.01 * server.tokens_per_s / load.tokens_of_a_request), server, 1)
    if alone.percentile_s(95) > load.p95_s:
        raise ToolError(
            f"a server with nothing else to do answers 95 of 100 such requests within {alone.percentile_s(95):.3g} s, "
            f"so no number of them keeps to --p95 {load.p95_s:g}: allow more, or use faster ones"
        )
    least = max(load.tokens_per_s / server.tokens_per_s, _tokenising(load, server))
    low = max(0, math.ceil(least) - 1)  # too few
    high = max(1, low + 1)
    while not _keeps(load, server, high):
        low, high = high, max(high + 1, math.ceil(high * 1.25))
    while high - low > 1:
        middle = (low + high) // 2
        if middle and _keeps(load, server, middle):
            high = middle
        else:
            low = middle
    return high


def _tokenising(load: Load, server: Server) -> float:
    """Return the number of servers whose tokenizers the load keeps busy."""
    return load.requests_per_s * (server.request_s + load.tokens_of_a_request / server.request_tokens_per_s)


def _keeps(load: Load, server: Server, servers: int) -> bool:
    if load.tokens_per_s >= server.tokens_per_s * servers or _tokenising(load, server) >= servers:
        return False
    return _simulated(load, server, servers).percentile_s(95) <= load.p95_s


def _simulated(load: Load, server: Server, servers: int) -> Outcome:
    simulated = min(servers, _MOST_SIMULATED)
    rate = load.requests_per_s * simulated / servers
    requests = max(_LEAST_REQUESTS_SIMULATED, _REQUESTS_OF_A_SERVER * simulated)
    traffic = Traffic(request_tokens(load, requests), rate=rate)
    seconds = requests / rate
    return simulate(server, simulated, traffic, seconds=0.8 * seconds, warm_up_s=0.2 * seconds, seed=_SEED)
