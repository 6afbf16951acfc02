"""What a call through the gateway takes longer than a call to the model itself."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from trunkline.cli.demo.world import World
from trunkline.client import Trunkline
from trunkline.errors import Internal

_WARM_UP = 20
_USER = "cus_timed"


@dataclass(frozen=True)
class Latency:
    """Milliseconds of many equal calls, one after the other on one connection."""

    p50: float
    p99: float
    added_p50: float
    """More than the direct calls of the same run; 0 for those themselves."""
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
    """Time direct calls, calls through the gateway, and calls through it with the agent's memory, in turn."""
    with Trunkline(world.base_url, world.key) as client:
        client.memory.operations(
            agent, "customer", [{"op": "append", "field": "recent_purchases", "value": "lamp"}], user_id=_USER
        )
    message = {"messages": [{"role": "user", "content": "Hello."}]}
    callers = {
        "direct": _Caller(world.model_url, "none", {"model": "scripted-sonnet", **message}),
        "gateway": _Caller(world.base_url, world.key, {"model": "claude-sonnet", **message}),
        "gateway with memory": _Caller(
            world.base_url, world.key, {"model": f"agent/{agent}", "user": _USER, **message}
        ),
    }
    took: dict[str, list[float]] = {name: [] for name in callers}
    for number in range(_WARM_UP + calls):
        for name, caller in callers.items():
            milliseconds = caller.call()
            if number >= _WARM_UP:
                took[name].append(milliseconds)
    marks = {name: statistics.quantiles(times, n=100, method="inclusive") for name, times in took.items()}
    direct = marks["direct"]
    return {
        name: Latency(
            round(mark[49], 3), round(mark[98], 3), round(mark[49] - direct[49], 3), round(mark[98] - direct[98], 3)
        )
        for name, mark in marks.items()
    }
