"""The worker as a process: it carries out the turns of agents that run here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from trunkline.errors import SetupError
from trunkline.memory import embedding
from trunkline.memory_settings import Embedder, Memory
from trunkline.processes import logs
from trunkline.processes.lifeline import on_loss, receive
from trunkline.runtime.tools.sources import worker_tools
from trunkline.runtime.worker import DailyTask, run
from trunkline.scheduling import deployments, partitions, retention
from trunkline.scheduling.webhooks import Webhooks, forget_deliveries
from trunkline.store.sealing import Sealing
from trunkline.tool_settings import ToolSettings
from trunkline.webhook_settings import WebhookSettings


def serve(
    database: str,
    base_url: str,
    *,
    embedder: Embedder | None,
    tools: ToolSettings,
    webhooks: WebhookSettings,
    vault_keys: Sequence[bytes],
    audit_days: int,
    home: Path,
    on_loss: Callable[[Callable[[], None]], None] | None = None,
) -> None:
    """Work until SIGTERM or SIGINT.

    `base_url` is the gateway that model calls, and embeddings, go through; the audit log is kept for `audit_days`.
    `vault_keys` open the secrets that webhooks are signed with, and credentials for MCP servers; files of sessions are
    in `home`, unless `tools` says otherwise.

    Raises SetupError for tools that cannot be had.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.WARNING)
    logs.start()
    sys.path.append(str(Path.cwd()))  # for the modules of tools; last, so that nothing there hides what is installed
    daily: dict[str, DailyTask] = {
        "ensure_partitions": partitions.ensure,
        "forget_answers": retention.forget_answers,
        "forget_bodies": retention.forget_bodies,
        "expire_memory": retention.expire_memory,
        "expire_files": retention.expire_files,
        "forget_items": retention.forget_items,
        "forget_audit": partial(retention.forget_audit, days=audit_days),
        "expire_prompts": retention.expire_prompts,
        "expire_sessions": retention.expire_sessions,
        "forget_deliveries": forget_deliveries,
        "survey_embeddings": embedding.survey_again,
    }
    run(
        database,
        base_url,
        worker_tools(tools, home, vault_keys),
        on_loss=on_loss,
        daily=daily,
        ticks=(deployments.fire_due, Webhooks(Sealing(vault_keys), webhooks.allow).deliver_due),
        embedder=embedder,
    )


def _supervised() -> None:
    configuration = receive()
    memory = Memory.model_validate(configuration["memory"])
    tools = ToolSettings.model_validate(configuration["tools"])
    try:
        serve(
            configuration["database"],
            configuration["base_url"],
            embedder=memory.embedder,
            tools=tools,
            webhooks=WebhookSettings.model_validate(configuration["webhooks"]),
            vault_keys=[bytes.fromhex(key) for key in configuration["vault_keys"]],
            audit_days=configuration["audit_days"],
            home=Path(configuration["home"]),
            on_loss=on_loss,
        )
    except SetupError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    _supervised()
