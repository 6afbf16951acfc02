"""Requests in steps: what is asked of Trunkline, told once for synchronous and asynchronous programs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import httpx

from trunkline.client.connection import resolve
from trunkline.client.transport import AsyncTransport, Transport
from trunkline.errors import TrunklineError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; its answer, or its error, comes back where it was yielded."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    body: Mapping[str, Any] | None = None


Steps: TypeAlias = Generator[Ask, Any, Result]


def carry_out(transport: Transport, steps: Steps[Result]) -> Result:
    """Take the steps and return what they return. Raises the TrunklineError that they do not catch."""
    try:
        ask = next(steps)
        while True:
            try:
                answer = transport.request(ask.method, ask.path, params=ask.params, body=ask.body)
            except TrunklineError as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(answer)
    except StopIteration as end:
        found: Result = end.value
        return found


async def carry_out_async(transport: AsyncTransport, steps: Steps[Result]) -> Result:
    """Do the same without keeping the event loop waiting."""
    try:
        ask = next(steps)
        while True:
            try:
                answer = await transport.request(ask.method, ask.path, params=ask.params, body=ask.body)
            except TrunklineError as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(answer)
    except StopIteration as end:
        found: Result = end.value
        return found


class Link:
    """A Trunkline for programs of both kinds; connections are opened when they are first needed.

    Arguments are those of `Trunkline`. A program may run several event loops one after the other: each has connections
    of its own. `http` and `async_http` replace the network.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        http: httpx.BaseTransport | None = None,
        async_http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = resolve(base_url, api_key, os.environ)
        self._timeout_s = timeout_s
        self._http = http
        self._async_http = async_http
        self._transport: Transport | None = None
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncTransport] = WeakKeyDictionary()

    def carry_out(self, steps: Steps[Result]) -> Result:
        """Take the steps and return what they return. Raises the TrunklineError that they do not catch."""
        if self._transport is None:
            self._transport = Transport(self._connection, timeout_s=self._timeout_s, http=self._http)
        return carry_out(self._transport, steps)

    async def carry_out_async(self, steps: Steps[Result]) -> Result:
        """Do the same without keeping the event loop waiting."""
        loop = asyncio.get_running_loop()
        transport = self._by_loop.get(loop)
        if transport is None:
            transport = AsyncTransport(self._connection, timeout_s=self._timeout_s, http=self._async_http)
            self._by_loop[loop] = transport
        return await carry_out_async(transport, steps)

    def close(self) -> None:
        """Close the connections of synchronous calls."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def close_async(self) -> None:
        """Close the connections of the running event loop, and those of synchronous calls."""
        self.close()
        transport = self._by_loop.pop(asyncio.get_running_loop(), None)
        if transport is not None:
            await transport.close()
