"""The control plane as a process: its app on a socket that somebody else opened."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from functools import partial

import uvloop

from trunkline.api import app
from trunkline.api.app import ControlSettings, OpenEmbedding, OpenRerank
from trunkline.errors import SetupError
from trunkline.memory_settings import Memory
from trunkline.processes import embedding as embedders
from trunkline.processes import lifeline, logs
from trunkline.processes import reranking as rerankers
from trunkline.runtime.next_prompt import next_prompt
from trunkline.store.leases import wake
from trunkline.tool_settings import ToolSettings


def serve(
    settings: ControlSettings,
    listener: socket.socket,
    *,
    embedding: Callable[[], OpenEmbedding | None] | None = None,
    reranking: Callable[[], OpenRerank | None] | None = None,
    supervised: bool = False,
) -> None:
    """Serve on a listening socket until SIGTERM or SIGINT, then finish the requests under way. Raises SetupError."""
    logs.start()
    open_embedding = embedding() if embedding is not None else None
    open_rerank = reranking() if reranking is not None else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, open_embedding, open_rerank, supervised=supervised))


async def _serve(
    settings: ControlSettings,
    listener: socket.socket,
    open_embedding: OpenEmbedding | None,
    open_rerank: OpenRerank | None,
    *,
    supervised: bool,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if supervised:
        lifeline.on_loss(lambda: loop.call_soon_threadsafe(stop.set))
    await app.serve(
        settings,
        listener=listener,
        wake=wake,
        next_prompt=next_prompt,
        open_embedding=open_embedding,
        on_listening=_spare_collector,
        open_rerank=open_rerank,
        stop=stop,
    )


def _spare_collector(_port: int) -> None:
    """Leave what was made until now, which lives as long as the process, out of every garbage collection.

    The app is some 120,000 objects; a full collection walked them for 30 to 50 ms in which nobody was answered. With 20
    clients that read sessions the 99th percentile was 70 ms before and 29 ms after.
    """
    gc.collect()
    gc.freeze()


def _supervised() -> None:
    configuration = lifeline.receive()
    settings = ControlSettings(
        configuration["database"],
        configuration["max_body_bytes"],
        vault_keys=tuple(bytes.fromhex(key) for key in configuration["vault_keys"]),
        mcp_allow=ToolSettings.model_validate(configuration["tools"]).mcp.allow,
    )
    try:
        memory = Memory.model_validate(configuration["memory"])
        embedding = partial(
            embedders.prepare, memory.embedder, configuration["base_url"], configuration["embedder_key"]
        )
        reranking = partial(rerankers.prepare, memory.reranker, configuration["reranker_key"], configuration["ca_file"])
        with socket.socket(fileno=configuration["descriptor"]) as listener:
            serve(settings, listener, embedding=embedding, reranking=reranking, supervised=True)
    except SetupError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    _supervised()
