"""What a call through the gateway takes longer than a call to the model itself."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx

from trunkline.cli.demo.world import World
from trunkline.client import Trunkline
from trunkline.errors import Internal

_WARM_UP = 20
_USER = "cus_timed"


DIRECT, GATEWAY = "model alone", "through the gateway"
DIRECT_MEMORY, GATEWAY_MEMORY = "model alone, same prompt", "through the gateway, with memory"
_BASELINES = {DIRECT: DIRECT, GATEWAY: DIRECT, DIRECT_MEMORY: DIRECT_MEMORY, GATEWAY_MEMORY: DIRECT_MEMORY}
"""What each is compared with: a model takes longer over the longer prompt that memory makes, whoever sends it."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of many equal calls, one after the other on one connection.

    `added_*` is what they take longer than `baseline` does in the same run; 0 for a baseline itself.
    """

    p50: float
    p99: float
    baseline: str
    added_p50: float
    added_p99: float


class _Caller:
    """One connection, kept open, and the same small request again and again."""

    def __init__(self, base_url: str, key: str, body: Mapping[str, object]) -> None:
        self._connection = http.client.HTTPConnection(base_url.removeprefix("http://"), timeout=30)
        self._headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        self._body = json.dumps(body).encode()

    def call(self) -> float:
        """Return how long one call took, in milliseconds."""
        began = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", self._body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        took = (time.perf_counter() - began) * 1000
        if response.status != 200:
            raise Internal(f"a timed call was answered {response.status}: {answer[:300].decode(errors='replace')}")
        return took


def measure(world: World, agent: str, calls: int) -> dict[str, Latency]:
    """Time calls to the model alone and through the gateway, without and with the agent's memory, in turn."""
    with Trunkline(world.base_url, world.key) as client:
        client.memory.operations(
            agent, "customer", [{"op": "append", "field": "recent_purchases", "value": "lamp"}], user_id=_USER
        )
    message = {"messages": [{"role": "user", "content": "Hello."}]}
    with_memory = _Caller(world.base_url, world.key, {"model": f"agent/{agent}", "user": _USER, **message})
    with_memory.call()
    callers = {
        DIRECT: _Caller(world.model_url, "none", {"model": "scripted-sonnet", **message}),
        GATEWAY: _Caller(world.base_url, world.key, {"model": "claude-sonnet", **message}),
        DIRECT_MEMORY: _Caller(world.model_url, "none", _newest_request(world.model_url)),
        GATEWAY_MEMORY: with_memory,
    }
    took: dict[str, list[float]] = {name: [] for name in callers}
    for number in range(_WARM_UP + calls):
        for name, caller in callers.items():
            milliseconds = caller.call()
            if number >= _WARM_UP:
                took[name].append(milliseconds)
    marks = {name: statistics.quantiles(times, n=100, method="inclusive") for name, times in took.items()}
    return {name: _latency(mark, name, marks[_BASELINES[name]]) for name, mark in marks.items()}


def _latency(mark: Sequence[float], name: str, baseline: Sequence[float]) -> Latency:
    p50, p99 = mark[49], mark[98]
    added = round(p50 - baseline[49], 3), round(p99 - baseline[98], 3)
    return Latency(round(p50, 3), round(p99, 3), _BASELINES[name], *added)


def _newest_request(model_url: str) -> dict[str, object]:
    """Return what the scripted model was sent last: the prompt with memory in it, as the gateway made it."""
    body: dict[str, object] = httpx.get(f"{model_url}/_requests", params={"limit": 1}).json()[0]["body"]
    return body
