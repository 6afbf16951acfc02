from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from trunkline.cli.memory import describe
from trunkline.client import AppliedAgent, BlockVersion, StoredBlock

if TYPE_CHECKING:
    from trunkline.cli.demo.conversation import Turn
    from trunkline.cli.demo.story import Outcome


class Report:
    """Tells the story on the terminal as it happens; silent where JSON is wanted."""

    def __init__(self, *, silent: bool) -> None:
        self._console = Console(quiet=silent, highlight=False)

    def step(self, text: str) -> None:
        """Say what is done now."""
        self._console.print(Text(f"· {text}", style="dim"))

    def agent(self, agent: AppliedAgent) -> None:
        """Say that an agent was applied."""
        blocks = ", ".join((agent.memory or {}).get("blocks") or {}) or "none"
        self.step(f"Agent {agent.name!r}: {agent.change}, version {agent.version}, blocks: {blocks}")

    def session(self, number: int, client: str, user: str) -> None:
        """Begin a session."""
        self._console.print()
        self._console.print(Rule(Text(f"Session {number}: {client}, user {user}"), align="left"))

    def turn(self, turn: Turn) -> None:
        """Show one turn."""
        self._console.print(Text.assemble(("user   ", "bold cyan"), turn.said))
        how = f"{turn.seconds * 1000:.0f} ms" + (f", {turn.pieces} pieces" if turn.pieces else "")
        self._console.print(Text.assemble(("agent  ", "bold green"), turn.answered, (f"  ({how})", "dim")))

    def killed(self, victims: Mapping[str, int]) -> None:
        """Say whom SIGKILL ended."""
        names = [name for name in victims if not name.startswith("postgres backend")]
        self._console.print()
        self._console.print(
            Text(f"SIGKILL to all {len(victims)} processes: {', '.join(names)} with all backends", style="bold red")
        )

    def blocks(self, blocks: Sequence[StoredBlock], versions: Mapping[str, Sequence[BlockVersion]]) -> None:
        """Show the blocks and how they came to be."""
        for block in blocks:
            self._console.print()
            self._console.print(Rule(Text(f"Block {block.block}, version {block.version or 0}"), align="left"))
            self._console.print(Text(block.rendered))
            table = Table(box=None, header_style="bold", pad_edge=False)
            for column in ("version", "when", "who", "operations"):
                table.add_column(column)
            for version in reversed(versions.get(block.block, ())):
                table.add_row(
                    str(version.version),
                    f"{version.created_at:%H:%M:%S}",
                    Text(f"{version.actor.type} …{version.actor.id[-6:]}"),
                    Text(describe(version.operations)),
                )
            self._console.print(table)
        self._console.print()

    def figures(self, outcome: Outcome) -> None:
        """Show what it cost."""
        self._console.print()
        self._console.print(Rule("What it costs", align="left"))
        latency = _table("a call, in ms", "p50", "p99", "added p50", "added p99")
        for name, mark in outcome.latency.items():
            added = ("", "") if name == mark.baseline else (f"+{mark.added_p50:.2f}", f"{mark.added_p99:+.2f}")
            latency.add_row(name, f"{mark.p50:.2f}", f"{mark.p99:.2f}", *added)
        restart = _table("from the restart on, in s", "")
        for name, seconds in outcome.restart.items():
            restart.add_row(name, f"{seconds:.3f}", style="bold" if name == "to first answer" else None)
        resident = _table("resident memory, in MiB", "")
        for name, size in outcome.resident.items():
            resident.add_row(name, f"{size / 2**20:.1f}")
        for table in (latency, restart, resident):
            self._console.print(table)
            self._console.print()

    def verdict(self, outcome: Outcome, seconds: float) -> None:
        """Say how it ended."""
        if outcome.lost:
            self._console.print(Text("Lost:", style="bold red"))
            for line in outcome.lost:
                self._console.print(Text(f"  {line}", style="red"))
        else:
            self._console.print(Text("Every fact was kept, and what is unknown was named.", style="bold green"))
        self._console.print(Text(f"{seconds:.1f} s in all; nothing is left running or on disk.", style="dim"))


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
