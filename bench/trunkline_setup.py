"""Trunkline as the benchmark runs it: `trunkline up` in a throw-away home, with its keys, agents and memory."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench.cases import CHAT, MESSAGES, Case, settled
from bench.load import Upstream
from bench.processes import HarnessError, free_port, running, tail, wait_for_answer

PLAIN, CACHED, REFRESH = "trunkline", "trunkline-memory-cached", "trunkline-memory-refresh"
TRANSLATED = "trunkline-translated"
"""Anthropic's wire in, OpenAI's out."""
CASES = (PLAIN, CACHED, REFRESH, TRANSLATED)
USER = "bench"
BLOCKS = 10
MARK = "parcel-of-block"
"""Every stored value holds `MARK-N`: what is looked for in the request that reaches the upstream."""
MEMORY_BYTES = range(3500, 4700)
"""How large the rendered memory may be to count as "10 blocks, 4 KB"."""


@dataclass(frozen=True)
class Running:
    """A running Trunkline: its home and addresses, the process ids by part, and the key of its first start."""

    home: Path
    base_url: str
    control_url: str
    processes: dict[str, int]
    admin_key: str


@contextmanager
def trunkline(binary: Path, settings: Mapping[str, object], folder: Path) -> Iterator[Running]:
    """Run `trunkline up` on a free port, with `settings` as its trunkline.yaml, until the block ends."""
    if not binary.exists():
        raise HarnessError(f"{binary} does not exist: `make build` makes it")
    home = folder / "trunkline"
    home.mkdir(exist_ok=True)
    port = free_port()
    # JSON is YAML, and needs no escaping of ours.
    (home / "trunkline.yaml").write_text(json.dumps({"listen": f"127.0.0.1:{port}", **settings}))
    log = folder / "trunkline.log"
    environment = {name: value for name, value in os.environ.items() if not _is_foreign(name)}
    environment["TRUNKLINE_HOME"] = str(home)
    processes: dict[str, int] = {}
    with running([str(binary), "up"], log=log, environment=environment, folder=home, grace_s=30) as process:
        run = _wait_for_run(home / "run.json", process, log)
        wait_for_answer(f"http://127.0.0.1:{port}/readyz", process, log, seconds=60)
        processes.update((name, int(entry["pid"])) for name, entry in run["processes"].items())
        if "gateway" not in processes:
            raise HarnessError(f"run.json names no gateway process: {run}. The end of the log:\n{tail(log)}")
        yield Running(
            home=home,
            base_url=run["base_url"],
            control_url=run["control_url"],
            processes=dict(processes),
            admin_key=(home / "admin.key").read_text().strip(),
        )
    if process.returncode == -signal.SIGKILL:
        _end_orphans(processes)


def _wait_for_run(path: Path, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Return run.json, which the supervisor writes when all its parts are ready."""
    end = time.monotonic() + 60
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise HarnessError(f"`trunkline up` did not start. The end of its log:\n{tail(log)}")
        time.sleep(0.05)
    run: dict[str, Any] = json.loads(path.read_text())
    return run


def _is_foreign(name: str) -> bool:
    """Say whether a variable of the caller's environment would make this Trunkline another one."""
    return name == "DATABASE_URL" or name.startswith("TRUNKLINE_") or name.endswith("_API_KEY")


def _end_orphans(processes: dict[str, int]) -> None:
    """End the parts of a supervisor that had to be killed."""
    for pid in processes.values():
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue


def settings(upstream: Upstream) -> dict[str, object]:
    """Return the content of trunkline.yaml. The upstream knows the model by another name, as providers do."""
    return {
        "providers": {"bench": {"wire": "openai_chat", "base_url": f"{upstream.url}/v1", "api_key": "none"}},
        "models": {
            "bench": {"provider": "bench", "model": "bench-upstream"},
            **{name: {"provider": "bench", "model": name} for name in ("paced-10", "paced-50", "paced-100")},
        },
    }


def cases(up: Running, names: list[str], session: str | None) -> list[Case]:
    """Make keys, agents and memory through the API and return the asked-for cases, each proved to do what it says."""
    made: list[Case] = []
    with httpx.Client(
        base_url=up.base_url, headers={"authorization": f"Bearer {up.admin_key}"}, timeout=30.0
    ) as client:
        if PLAIN in names:
            made.append(_case(up, PLAIN, [f"authorization: Bearer {_key(client, PLAIN, agent=None)}"], sees=None))
        if TRANSLATED in names:
            key = [f"x-api-key: {_key(client, TRANSLATED, agent=None)}", "anthropic-version: 2023-06-01"]
            case = _case(up, TRANSLATED, key, sees=None)
            made.append(replace(case, url=up.base_url + MESSAGES, arguments=("--max-tokens", "64")))
        for name in (CACHED, REFRESH):
            if name not in names:
                continue
            agent_id = _agent(client, name, refresh=name == REFRESH)
            _fill_blocks(client, agent_id)
            headers = [f"authorization: Bearer {_key(client, name, agent=name)}", f"x-trunkline-user: {USER}"]
            if session is not None:
                headers.append(f"x-trunkline-session: {session}")
            made.append(_case(up, name, headers, sees=f"{MARK}-{BLOCKS - 1}"))
    return made


def _case(up: Running, name: str, headers: list[str], sees: str | None) -> Case:
    return Case(
        name=name,
        url=up.base_url + CHAT,
        measured=(up.processes["gateway"],),
        headers=tuple(headers),
        companions={part: pid for part, pid in up.processes.items() if part != "gateway"},
        upstream_sees=sees,
        recorded=_recorded(up),
    )


def _recorded(up: Running) -> Callable[[datetime], int]:
    """Return the question how many requests were recorded since then.

    It goes to the control plane itself, so as not to burden the gateway.
    """

    def count(since: datetime) -> int:
        headers = {"authorization": f"Bearer {up.admin_key}"}
        parameters = {"from": since.isoformat()}
        url = f"{up.control_url}/v1/usage"
        return int(_json(httpx.get(url, headers=headers, params=parameters, timeout=60.0))["requests"])

    return count


def _key(client: httpx.Client, name: str, agent: str | None) -> str:
    """Make a key with a budget that no benchmark can use up, so that the gateway has one to keep."""
    body = {"name": name, "scopes": ["inference"], "agent_id": agent, "budget_usd": 1_000_000, "rpm": None}
    return str(_json(client.post("/v1/keys", json=body))["key"])


def _agent(client: httpx.Client, name: str, *, refresh: bool) -> str:
    return str(_json(client.post("/v1/agents", json=agent_definition(name, refresh=refresh)))["id"])


def agent_definition(name: str, *, refresh: bool) -> dict[str, object]:
    """Return an agent with ten user-scoped blocks, no tools and no recall: what is measured is the blocks."""
    text = {"type": "string"}
    blocks = {
        f"topic_{number}": {
            "scope": "user",
            "description": f"What is known about topic {number}.",
            "fields": {"facts": text, "history": text, "open_questions": text},
        }
        for number in range(BLOCKS)
    }
    memory: dict[str, object] = {
        "type": "session_persistent",
        "backends": ["postgres"],
        "context_engine": "structured",
        "refresh_on_every_turn": refresh,
        "tools": False,
        "recall": False,
        "blocks": blocks,
    }
    return {"name": name, "model": "bench", "system": "You answer questions about parcels.", "memory": memory}


def _fill_blocks(client: httpx.Client, agent_id: str) -> None:
    for number in range(BLOCKS):
        operations = [{"op": "set", "field": field, "value": value} for field, value in block_values(number).items()]
        path = f"/v1/agents/{agent_id}/memory/topic_{number}/operations"
        _json(client.post(path, json={"user_id": USER, "operations": operations}))


def block_values(number: int) -> dict[str, str]:
    """Return the fields of one block: about 290 bytes, which rendering brings to about 410."""
    return {
        "facts": f"{MARK}-{number} was sent on monday by surface mail and is insured for its full value of 80 euro",
        "history": f"the customer asked twice about {MARK}-{number} and was told to wait until the end of the week",
        "open_questions": f"has {MARK}-{number} left the sorting centre, who signs for it, may it be left next door",
    }


def _json(answer: httpx.Response) -> dict[str, Any]:
    """Return the body of a good answer; raise HarnessError with the whole answer otherwise."""
    if not answer.is_success:
        request = answer.request
        raise HarnessError(f"{request.method} {request.url.path} answered {answer.status_code}: {answer.text[:500]}")
    body: dict[str, Any] = answer.json()
    return body


def prove_memory(case: Case, upstream: Upstream) -> None:
    """Send single requests and raise HarnessError unless the case does what its name says.

    The upstream must get all ten blocks and about 4 KB of memory, and the response must say where they came from:
    `fresh` on every call with `refresh_on_every_turn`, `cached` once the cache is filled without it.
    """
    headers = dict(line.split(": ", 1) for line in case.headers)
    body = {"model": "bench", "max_tokens": 64, "messages": [{"role": "user", "content": "where is it?"}]}
    expected = {PLAIN: "none", TRANSLATED: "none", CACHED: "cached", REFRESH: "fresh"}[case.name]
    began = datetime.now(UTC)
    said, calls = "", 0
    while said != expected:
        if calls == 20:
            raise HarnessError(f"{case.name}: x-trunkline-memory says {said!r} after 20 calls, not {expected!r}")
        time.sleep(0.1 if calls else 0)
        answer = httpx.post(case.url, headers=headers, json=body, timeout=30.0)
        _json(answer)
        said = answer.headers.get("x-trunkline-memory", "(no such header)")
        calls += 1
    if case.recorded is not None and (recorded := settled(case.recorded, began, calls)) != calls:
        raise HarnessError(f"{case.name}: {calls} requests were answered, {recorded} were recorded")
    last = httpx.get(f"{upstream.url}/_last", timeout=30.0).json()
    problem = memory_problem(last, wanted=case.name in {CACHED, REFRESH})
    if problem is not None:
        raise HarnessError(f"{case.name}: {problem}")


def memory_problem(request: dict[str, list[dict[str, str]]], *, wanted: bool) -> str | None:
    """Say what is wrong with the memory in a chat request that reached the upstream, or None."""
    systems = [message["content"] for message in request["messages"] if message["role"] in {"system", "developer"}]
    text = "\n".join(systems)
    start, end = text.find("<trunkline-memory>"), text.find("</trunkline-memory>")
    if not wanted:
        return None if start < 0 else "memory reached the upstream, though the key has no agent"
    if start < 0 or end < start:
        return f"no memory reached the upstream; its system text is {text[:200]!r}"
    memory = text[start:end]
    missing = [number for number in range(BLOCKS) if f"{MARK}-{number}" not in memory]
    if missing:
        return f"the blocks {missing} did not reach the upstream"
    if len(memory.encode()) not in MEMORY_BYTES:
        return f"the rendered memory has {len(memory.encode())} bytes, not about 4 KB"
    return None
