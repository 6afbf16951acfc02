"""The story: what the user says, what must be known afterwards, and the order of it all."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trunkline.cli.demo import conversation
from trunkline.cli.demo.conversation import Turn
from trunkline.cli.demo.latency import Latency, measure
from trunkline.cli.demo.report import Report
from trunkline.cli.demo.world import World
from trunkline.client import AppliedAgent, BlockVersion, StoredBlock, Trunkline

USER = "cus_42"
AGENT = "support-resolver"
SESSION_1 = (
    "Hello! I bought a red kettle last week.",
    "I also bought a tea towel, and I prefer green.",
    "I wear size M.",
    "What did I buy?",
)
SESSION_2 = ("What do you know about me?",)
SESSION_3 = ("What did I say about a kettle?",)
REQUIRED = "name"
"""The required field of block `customer` that nobody tells."""


@dataclass(frozen=True)
class Fact:
    """Something the user told: a word that must be in the answer and in this field of block `customer`."""

    field: str
    word: str

    def is_in(self, value: Mapping[str, Any]) -> bool:
        """Tell whether the block's field holds it, as an item or under a key."""
        held = value.get(self.field)
        items = held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]
        return self.word in items


FACTS = (
    Fact("recent_purchases", "red kettle"),
    Fact("recent_purchases", "tea towel"),
    Fact("preferences", "green"),
    Fact("preferences", "M"),
)


@dataclass
class Outcome:
    """Everything the demo found."""

    turns: list[Turn] = field(default_factory=list)
    blocks: Sequence[StoredBlock] = ()
    versions: Mapping[str, Sequence[BlockVersion]] = field(default_factory=dict)
    killed: Mapping[str, int] = field(default_factory=dict)
    restart: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each stage, and `to first answer` in all."""
    latency: Mapping[str, Latency] = field(default_factory=dict)
    resident: Mapping[str, int] = field(default_factory=dict)
    """Bytes by process."""
    lost: list[str] = field(default_factory=list)
    """What should have been known and was not, one line each."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "ok": not self.lost,
            "lost": self.lost,
            "turns": [asdict(turn) for turn in self.turns],
            "blocks": [block.to_json() for block in self.blocks],
            "versions": {name: [version.to_json() for version in found] for name, found in self.versions.items()},
            "killed": dict(self.killed),
            "restart_seconds": {name: round(seconds, 4) for name, seconds in self.restart.items()},
            "latency_ms": {name: asdict(latency) for name, latency in self.latency.items()},
            "resident_bytes": dict(self.resident),
        }


def play(world: World, report: Report, *, calls: int) -> Outcome:
    """Play the story from the first start to the last figure."""
    outcome = Outcome()
    sdks = threading.Thread(target=conversation.import_sdks)  # they take a second each
    sdks.start()
    report.step("Starting the scripted model, then `trunkline up` in an empty home")
    world.start_model()
    world.start()
    report.agent(_apply(world, "support_resolver.yaml"))
    sdks.join()

    report.session(1, "openai SDK, streaming", USER)
    outcome.turns += _tell(report, conversation.openai_session(world, AGENT, USER, SESSION_1))

    outcome.killed = world.kill()
    report.killed(outcome.killed)
    world.start_model()
    began = time.monotonic()
    ready = world.start()
    started = time.monotonic()
    report.session(2, "anthropic SDK", USER)
    turns = _tell(report, conversation.anthropic_session(world, AGENT, USER, SESSION_2))
    outcome.restart = _stages(ready["seconds"], started - began, turns[0].seconds)
    outcome.turns += turns

    with Trunkline(world.base_url, world.key) as client:
        outcome.blocks = client.memory.get(AGENT, user_id=USER)
        outcome.versions = {
            block.block: client.memory.history(AGENT, block.block, user_id=USER) for block in outcome.blocks
        }
    report.blocks(outcome.blocks, outcome.versions)
    outcome.lost += lost(turns[-1].answered, outcome.blocks)

    report.step(f"Timing {calls} calls of each kind, one after the other")
    outcome.latency = measure(world, AGENT, calls)
    outcome.resident = world.resident_bytes()

    report.agent(_apply(world, "smallest.yaml"))
    report.session(3, "openai SDK, an agent without any blocks", USER)
    smallest = _tell(report, conversation.openai_session(world, AGENT, USER, SESSION_3))
    outcome.turns += smallest
    if "red kettle" not in smallest[-1].answered:
        outcome.lost.append(f"recall: {SESSION_3[-1]!r} was answered {smallest[-1].answered!r}")
    report.figures(outcome)
    return outcome


def lost(answer: str, blocks: Sequence[StoredBlock]) -> list[str]:
    """Return what the answer or the stored block `customer` lacks of the facts, and of what is still unknown."""
    value = next((block.value or {} for block in blocks if block.block == "customer"), {})
    rendered = next((block.rendered for block in blocks if block.block == "customer"), "")
    missing = []
    for fact in FACTS:
        if not fact.is_in(value):
            missing.append(f"stored: customer.{fact.field} does not hold {fact.word!r}")
        if fact.word not in answer:
            missing.append(f"answer: {fact.word!r} ({fact.field}) is not in it")
    if f"required but unknown: {REQUIRED}" not in rendered:
        missing.append(f"stored: block customer does not say that {REQUIRED!r} is required but unknown")
    if f"not know your {REQUIRED}" not in answer:
        missing.append(f"answer: it does not say that {REQUIRED!r} is unknown")
    return missing


def _apply(world: World, file: str) -> AppliedAgent:
    with Trunkline(world.base_url, world.key) as client:
        return client.agents.apply(world.examples / file)


def _tell(report: Report, turns: Any) -> list[Turn]:
    told = []
    for turn in turns:
        report.turn(turn)
        told.append(turn)
    return told


def _stages(ready: Mapping[str, float], started: float, first_turn: float) -> dict[str, float]:
    """Split the time from the restart to the first answer; `ready` counts from where `trunkline up` is imported."""
    total = ready["control"]
    return {
        "python starts": max(started - total, 0.0),
        "postgres recovers": ready["postgres"],
        "migrations checked": ready["migrations"] - ready["postgres"],
        "gateway ready": ready["gateway"] - ready["migrations"],
        "control plane ready": total - ready["gateway"],
        "first turn": first_turn,
        "to first answer": started + first_turn,
    }
