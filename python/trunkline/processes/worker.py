"""The worker as a process: it carries out the turns of agents that run here."""

from __future__ import annotations

import logging
from collections.abc import Callable

from trunkline.memory import embedding
from trunkline.memory_settings import Embedder, Memory
from trunkline.processes import logs
from trunkline.processes.lifeline import on_loss, receive
from trunkline.runtime.worker import run
from trunkline.scheduling import deployments, partitions, retention


def serve(
    database: str,
    base_url: str,
    *,
    embedder: Embedder | None,
    on_loss: Callable[[Callable[[], None]], None] | None = None,
) -> None:
    """Work until SIGTERM or SIGINT; `base_url` is the gateway that model calls, and embeddings, go through."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.WARNING)
    logs.start()
    daily = {
        "ensure_partitions": partitions.ensure,
        "forget_answers": retention.forget_answers,
        "forget_bodies": retention.forget_bodies,
        "expire_memory": retention.expire_memory,
        "expire_files": retention.expire_files,
        "forget_items": retention.forget_items,
        "expire_prompts": retention.expire_prompts,
        "expire_sessions": retention.expire_sessions,
        "survey_embeddings": embedding.survey_again,
    }
    run(database, base_url, on_loss=on_loss, daily=daily, tick=deployments.fire_due, embedder=embedder)


def _supervised() -> None:
    configuration = receive()
    memory = Memory.model_validate(configuration["memory"])
    serve(configuration["database"], configuration["base_url"], embedder=memory.embedder, on_loss=on_loss)


if __name__ == "__main__":
    _supervised()
