"""Blocks at rest and under load: reading a session's ten blocks, and writing by operations over the API.

Reads are timed at the SQL function that the gateway calls, as the gateway's role, over a Unix socket, from a store of a
thousand sessions and again from one of a million (`--sessions`). Writes go over HTTP to a control plane of one process,
each durable when it is answered: one at a time for the latency, from many connections for the rate.
`--tree DIR` measures another checkout's Python in the same way, so that one run can tell before from after.
"""

import argparse
import asyncio
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import RawCursor

from bench.machine import describe, sentence
from bench.processes import cpu_seconds, free_port, running, wait_for_answer

HERE = Path(__file__).parent
AGENT = "bench"
FIELDS = {
    "name": {"type": "string"},
    "detail": {"type": "string"},
    "history": {"type": "array", "items": {"type": "string"}, "maxItems": 200},
    "count": {"type": "integer"},
}
SCOPES = {"org": 1, "agent": 2, "user": 6, "session": 1}
"""Blocks of each scope: ten in all, of about 400 bytes rendered."""
SERVE = (
    "import sys; from trunkline.api.app import ControlSettings, run_control\n"
    "run_control(ControlSettings(sys.argv[1]), '127.0.0.1', int(sys.argv[2]))\n"
)
PREPARE = (
    "import sys, asyncio; from psycopg import AsyncConnection; from psycopg.rows import dict_row\n"
    "from pathlib import Path; from trunkline.store.embedded import EmbeddedPostgres\n"
    "from trunkline.store.migrate import migrate; from trunkline.store.keys import bootstrap\n"
    "server = EmbeddedPostgres(Path(sys.argv[1])); info = server.start(); migrate(info.url(), embedded=True)\n"
    "async def key():\n"
    "    async with await AsyncConnection.connect(info.url(), row_factory=dict_row) as connection:\n"
    "        return await bootstrap(connection, 'default')\n"
    "urls = info.url(), info.url('trunkline_gateway'), info.url('trunkline_control')\n"
    "print(*urls, asyncio.run(key()), info.pid, flush=True)\n"
    "sys.stdin.read(); server.stop()\n"
)
CHAINS = (
    "select decode(repeat(md5('chain' || n), 2), 'hex') "
    "from unnest($1::bigint[]) with ordinality as u(n, nth) order by nth"
)
CONTEXT = (
    "select session_id, at_head, refused, head, blocks, recall "
    "from trunkline.gateway_context($1, $2, 1, $3, null, $4, null, 0)"
)


def names(scope: str) -> list[str]:
    """Return the names of the blocks of a scope."""
    return [f"{scope}{number}" for number in range(SCOPES[scope])]


@contextmanager
def database(tree: Path) -> Iterator[tuple[str, str, str, str, int]]:
    """Run an embedded Postgres in a throw-away home; yield the roles' URLs, a key, and its pid."""
    with tempfile.TemporaryDirectory(prefix="trunkline-bench-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)
        with subprocess.Popen(
            [sys.executable, "-c", PREPARE, home],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tree / "python")},
        ) as process:
            assert process.stdout is not None
            admin, gateway, control, key, pid = process.stdout.readline().split()
            yield admin, gateway, control, key, int(pid)
            process.communicate("")


@contextmanager
def control_plane(tree: Path, url: str) -> Iterator[tuple[int, int]]:
    """Run a control plane and yield its port and process id."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="trunkline-bench-") as folder:
        log = Path(folder) / "control.log"
        environment = {**os.environ, "PYTHONPATH": str(tree / "python")}
        with running([sys.executable, "-c", SERVE, url, str(port)], log=log, environment=environment) as process:
            wait_for_answer(f"http://127.0.0.1:{port}/internal/healthz", process, log, seconds=30)
            yield port, process.pid


def ask(port: int, key: str, path: str, body: Any) -> Any:
    """POST JSON and return the answer's JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", path, json.dumps(body), {"x-api-key": key, "content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(text.decode())
    return json.loads(text)


def make_agent(port: int, key: str) -> UUID:
    """Make the agent with its ten blocks."""
    blocks = {
        name: {"scope": scope, "fields": FIELDS, "description": "What is known."}
        for scope in SCOPES
        for name in names(scope)
    }
    memory = {"recall": False, "token_budget": 100_000, "blocks": blocks}
    return UUID(
        ask(port, key, "/v1/agents", {"name": AGENT, "model": "m", "memory": memory})["id"].removeprefix("agent_")
    )


def statements() -> dict[str, str]:
    """Return the statements of `memory_fill.sql` by name."""
    pieces = (HERE / "memory_fill.sql").read_text().split("-- name: ")[1:]
    return {piece.split("\n", 1)[0].strip(): piece.split("\n", 1)[1] for piece in pieces}


class Filling:
    """Fills the store up to a number of sessions, a chunk at a time."""

    CHUNK = 20_000

    def __init__(self, admin: str, agent: UUID) -> None:
        self._admin, self._agent, self._there = admin, agent, 0

    def up_to(self, sessions: int) -> None:
        """Add sessions, and their users and blocks, until there are so many."""
        sql = statements()
        with psycopg.connect(self._admin, autocommit=True, cursor_factory=RawCursor) as connection:
            row = connection.execute("select id from trunkline.tenants where name = 'default'").fetchone()
            assert row is not None
            tenant = row[0]
            for setting in ("session_replication_role = replica", "synchronous_commit = off"):
                connection.execute(f"set {setting}".encode())
            for function in ("identity", "rendered"):
                connection.execute(sql[function].encode())
            if self._there == 0:
                connection.execute(sql["shared_stores"].encode(), (tenant, self._agent))
                for number, scope in enumerate(("org", "agent")):
                    connection.execute(sql["blocks"].encode(), (tenant, scope, "dddddddd", number, 1, names(scope)))
            for first in range(self._there, sessions, self.CHUNK):
                count = min(self.CHUNK, sessions - first)
                user, users = first // 10, -(-count // 10)
                connection.execute(sql["stores"].encode(), (tenant, self._agent, user, users))
                connection.execute(sql["blocks"].encode(), (tenant, "user", "aaaaaaaa", user, users, names("user")))
                connection.execute(sql["session_stores"].encode(), (tenant, self._agent, first, count))
                connection.execute(
                    sql["blocks"].encode(), (tenant, "session", "bbbbbbbb", first, count, names("session"))
                )
                connection.execute(sql["sessions"].encode(), (tenant, self._agent, first, count))
            self._there = sessions
            for table in ("sessions", "memory_stores", "memories"):
                connection.execute(f"vacuum (analyze) trunkline.{table}".encode())
            connection.execute("checkpoint")


def read(gateway: str, admin: str, agent: UUID, sessions: int, reads: int) -> dict[str, float]:
    """Time reads of random sessions' blocks; a session is found by the hash of its history, as most calls find it."""
    with psycopg.connect(admin, autocommit=True, cursor_factory=RawCursor) as connection:
        row = connection.execute("select id from trunkline.tenants where name = 'default'").fetchone()
        assert row is not None
        tenant = row[0]
        chosen = [random.randrange(sessions) for _ in range(reads)]
        chains = connection.execute(CHAINS, (chosen,)).fetchall()
    times: list[float] = []
    floor: list[float] = []
    with psycopg.connect(gateway, autocommit=True, cursor_factory=RawCursor, prepare_threshold=0) as connection:
        cursor = connection.cursor(binary=True)
        for number, (chain,) in zip(chosen, chains, strict=True):
            began = time.perf_counter()
            cursor.execute(CONTEXT, (tenant, agent, f"user-{number // 10}", chain))
            found = cursor.fetchone()
            times.append(time.perf_counter() - began)
            assert found is not None
            assert found[4] is not None
            assert found[4].count("<memory ") == 10, found[4]
            began = time.perf_counter()
            cursor.execute("select 1")
            cursor.fetchone()
            floor.append(time.perf_counter() - began)
    warm = times[len(times) // 5 :]
    return {"p50_ms": p(warm, 50), "p95_ms": p(warm, 95), "floor_p50_ms": p(floor, 50)}


def p(times: Sequence[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    return round(statistics.quantiles(times, n=100)[percent - 1] * 1000, 3)


def one_at_a_time(port: int, key: str, count: int, control: int, postgres: int) -> dict[str, float]:
    """Time operations one after the other, each on one of a hundred users' blocks."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"x-api-key": key, "content-type": "application/json"}
    times = []
    began_cpu = cpu_seconds([control]), cpu_seconds([postgres])
    for number in range(count):
        operation = {"op": "set", "field": "name", "value": f"{number}"}
        body = json.dumps({"user_id": f"w{number % 100}", "operations": [operation]})
        began = time.perf_counter()
        connection.request("POST", f"/v1/agents/{AGENT}/memory/user0", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        times.append(time.perf_counter() - began)
        assert answer.status == 200, text
    warm = times[len(times) // 5 :]
    used = cpu_seconds([control]) - began_cpu[0], cpu_seconds([postgres]) - began_cpu[1]
    return {
        "p50_ms": p(warm, 50),
        "p95_ms": p(warm, 95),
        "control_plane_cpu_ms": round(used[0] / count * 1000, 2),
        "postgres_cpu_ms": round(used[1] / count * 1000, 2),
    }


async def at_once(port: int, key: str, connections: int, seconds: float, operations: int) -> dict[str, float]:
    """Send operations from many connections for some seconds, each connection to blocks of its own."""
    done = 0
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = 0
        while time.perf_counter() < end:
            turn += 1
            given = [
                {"op": "set", "field": ("name", "detail")[nth % 2], "value": f"{turn}.{nth}"}
                for nth in range(operations)
            ]
            body = json.dumps({"user_id": f"c{number}", "operations": given}).encode()
            head = (
                f"POST /v1/agents/{AGENT}/memory/user{turn % 6} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            assert answer.startswith(b"HTTP/1.1 200"), answer
            done += operations
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(connections)))
    return {"operations_per_s": round(done / (time.perf_counter() - began))}


def flush_ms(folder: Path) -> float:
    """Return the median time of writing a page and bringing it to disk: no durable write can be faster."""
    times = []
    with (folder / "flush").open("wb", buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"x" * 8192)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return p(times, 50)


def measure(tree: Path, sizes: Sequence[int], reads: int, writes: int, seconds: float) -> dict[str, Any]:
    """Measure one checkout."""
    result: dict[str, Any] = {"reads": {}}
    with database(tree) as (admin, gateway, control, key, postgres):
        with control_plane(tree, control) as (port, pid):
            agent = make_agent(port, key)
            with tempfile.TemporaryDirectory(prefix="trunkline-bench-") as folder:
                result["flush_p50_ms"] = flush_ms(Path(folder))
            result["one_at_a_time"] = one_at_a_time(port, key, writes, pid, postgres)
            for connections in (16, 50):
                result[f"at_once_{connections}"] = asyncio.run(at_once(port, key, connections, seconds, 1))
            result["at_once_16_of_10"] = asyncio.run(at_once(port, key, 16, seconds, 10))
        filling = Filling(admin, agent)
        for sessions in sizes:
            began = time.perf_counter()
            filling.up_to(sessions)
            filled = round(time.perf_counter() - began)
            result["reads"][str(sessions)] = read(gateway, admin, agent, sessions, reads) | {"filled_in_s": filled}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", default="1000,1000000", help="sizes of the store that is read, rising")
    parser.add_argument("--reads", type=int, default=5000)
    parser.add_argument("--writes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load from many connections")
    parser.add_argument("--tree", type=Path, action="append", help="a checkout; more than one are measured in turn")
    parser.add_argument("--out", type=Path, help="write the figures as JSON here")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sessions.split(",")] if options.sessions else []
    machine = describe()
    print(sentence(machine))
    results = {}
    for tree in options.tree or [HERE.parent]:
        results[tree.name] = measure(tree, sizes, options.reads, options.writes, options.seconds)
        print(f"{tree.name}: {json.dumps(results[tree.name], indent=2)}", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
