"""What memory costs of providers' prompt caches: the share of input tokens that the model server reads from its cache.

The same sessions, word for word, four times over each wire: without memory, with memory as it is kept for the cache,
the same with up to 500 tokens recalled in each newest message, and with memory rendered anew on every call. There
(`prompt_cache: false`) the client places Anthropic's breakpoints itself, after its own system text and after the
history. Memory is written before every third turn. Each session has a user of its own. Counts, not times: a busy
machine changes nothing.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from bench.processes import HarnessError, free_port, running, tail, wait_for_answer

RESULTS = Path(__file__).parent / "results" / "prompt_cache.md"
WIRES = {"OpenAI": "gpt", "Anthropic": "claude"}
BAR = 0.9
"""Of what the sessions reach without memory."""
WORDS = "the parcel of the customer went by the northern depot and was weighed again before it left on the second van "
SYSTEM = "You answer for a parcel service. " + WORDS * 20
"""The client's own system text, about 560 tokens."""
REPLY = WORDS * 5
"""Each answer, about 140 tokens."""
ASKED = WORDS * 3
"""Each question, about 80 tokens."""
FIELDS = ("address", "delivery", "complaints", "preferences")
BLOCKS = {
    "service": ("org", 3),
    "desk": ("agent", 2),
    "customer": ("user", 4),
    "orders": ("user", 4),
    "mood": ("user", 1),
}
VALUE = "left with the neighbour at number {} after two attempts, to be asked about at the next call, said the driver"
"""One field's value, about 27 tokens; the written block is one of the two large ones of the user in turn."""
CASES: dict[str, dict[str, Any] | None] = {
    "without memory": None,
    "memory": {},
    "memory and recall": {"recall": True},
    "memory, rendered anew on every call": {"prompt_cache": False},
}
RECALLING = "memory and recall"
NAIVE = "memory, rendered anew on every call"


@dataclass
class Tokens:
    """Input tokens of calls, and those of them that were read from the cache."""

    input: int = 0
    cached: int = 0

    @property
    def share(self) -> float:
        """The cached share."""
        return self.cached / self.input


@contextmanager
def served() -> Iterator[tuple[str, str]]:
    """Run a model server and a Trunkline; yield the address and the admin's key."""
    with tempfile.TemporaryDirectory(prefix="trunkline-bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o711)
        script = home / "script.yaml"
        script.write_text(json.dumps({"rules": [{"name": "all", "when": {"user": "."}, "reply": REPLY}]}))
        model_port, port = free_port(), free_port()
        model = [sys.executable, "-m", "trunkline.model_server", "--port", str(model_port), "--script", str(script)]
        model_url = f"http://127.0.0.1:{model_port}"
        (home / "trunkline.yaml").write_text(
            json.dumps(
                {
                    "listen": f"127.0.0.1:{port}",
                    "providers": {
                        "oai": {"wire": "openai_chat", "base_url": f"{model_url}/v1", "api_key": "none"},
                        "ant": {"wire": "anthropic_messages", "base_url": f"{model_url}/v1", "api_key": "none"},
                    },
                    "models": {name: {"provider": name_of(name), "model": name} for name in WIRES.values()},
                }
            )
        )
        kept = {name: value for name, value in os.environ.items() if "TRUNKLINE" not in name and "API_KEY" not in name}
        kept.pop("DATABASE_URL", None)
        environment = {**kept, "TRUNKLINE_HOME": str(home)}
        log = home / "up.log"
        with (
            running(model, log=home / "model.log") as server,
            running(
                [sys.executable, "-m", "trunkline", "up"], log=log, environment=environment, folder=home
            ) as process,
        ):
            wait_for_answer(f"{model_url}/_requests", server, home / "model.log", seconds=60)
            wait_for_answer(f"http://127.0.0.1:{port}/readyz", process, log, seconds=120)
            key = home / "admin.key"
            if not key.exists():
                raise HarnessError(f"`trunkline up` made no key. The end of its log:\n{tail(log)}")
            yield f"http://127.0.0.1:{port}", key.read_text().strip()


def name_of(model: str) -> str:
    """Return the provider of a model."""
    return "oai" if model == "gpt" else "ant"


def post(client: httpx.Client, path: str, body: Any, **headers: str) -> Any:
    """POST JSON and return the answer's."""
    answer = client.post(path, json=body, headers=headers)
    if answer.status_code != 200:
        raise HarnessError(f"{path} answered {answer.status_code}: {answer.text[:500]}")
    return answer.json()


def make_agent(client: httpx.Client, model: str, case: str, number: int) -> str:
    """Make the agent of a case; return its name."""
    name = f"{model}-{number}"
    more = CASES[case]
    blocks = {
        block: {
            "scope": scope,
            "description": "What is known of it.",
            "fields": {field: {"type": "string"} for field in FIELDS[:fields]},
        }
        for block, (scope, fields) in BLOCKS.items()
    }
    memory = {"tools": False, "recall": False, **({"blocks": blocks} if more is not None else {}), **(more or {})}
    post(client, "/v1/agents", {"name": name, "model": model, "memory": memory})
    return name


def write(
    client: httpx.Client, agent: str, block: str, fields: tuple[str, ...], number: int, *, user: str | None = None
) -> None:
    """Set fields of a block."""
    operations = [{"op": "set", "field": field, "value": VALUE.format(number)} for field in fields]
    body = {"operations": operations} | ({"user_id": user} if user else {})
    post(client, f"/v1/agents/{agent}/memory/{block}/operations", body)


def session(client: httpx.Client, agent: str, case: str, number: int, turns: int) -> Tokens:
    """Play one session and count its tokens."""
    model = agent.partition("-")[0]
    user, total, said = f"{agent}-cus-{number}", Tokens(), []
    # What one case left in the cache must not serve the next.
    instructed = f"Desk {agent}. {SYSTEM}"
    marks = case == NAIVE and model == "claude"
    mark: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
    if CASES[case] is not None:
        for block, (scope, fields) in BLOCKS.items():
            if scope == "user":
                write(client, agent, block, FIELDS[:fields], number, user=user)
    if case == RECALLING:
        # Something said before, in a session of its own, that can be recalled.
        for earlier in range(10):
            question = {"role": "user", "content": f"Earlier question {earlier}: {ASKED}"}
            body = {"model": model, "max_tokens": 1000, "messages": [question]}
            headers = {"x-trunkline-agent": agent, "x-trunkline-user": user}
            post(client, "/v1/chat/completions", body, **headers)
    for turn in range(turns):
        if CASES[case] is not None and turn % 3 == 2:
            written = ("customer", "orders")[turn // 3 % 2]
            write(client, agent, written, (FIELDS[turn % 4],), 1000 * number + turn, user=user)
        said.append({"role": "user", "content": f"Session {number}, question {turn}: {ASKED}"})
        headers = {"x-trunkline-agent": agent, "x-trunkline-user": user}
        if model == "gpt":
            messages = [{"role": "system", "content": instructed}, *said]
            answer = post(client, "/v1/chat/completions", {"model": model, "messages": messages}, **headers)
            used = answer["usage"]
            total.input += used["prompt_tokens"]
            total.cached += used["prompt_tokens_details"]["cached_tokens"]
            text = answer["choices"][0]["message"]["content"]
        else:
            system: Any = [{"type": "text", "text": instructed, **mark}] if marks else instructed
            history: list[Any] = list(said)
            if marks and len(said) > 1:
                history[-2] = {
                    "role": "assistant",
                    "content": [{"type": "text", "text": said[-2]["content"], **mark}],
                }
            body = {"model": model, "max_tokens": 1000, "system": system, "messages": history}
            answer = post(client, "/v1/messages", body, **headers)
            used = answer["usage"]
            cached = used["cache_read_input_tokens"]
            total.input += used["input_tokens"] + cached + used["cache_creation_input_tokens"]
            total.cached += cached
            text = answer["content"][0]["text"]
        said.append({"role": "assistant", "content": text})
    return total


def measure(base_url: str, admin: str, sessions: int, turns: int) -> dict[str, dict[str, Tokens]]:
    """Play all sessions of all cases, by wire."""
    found: dict[str, dict[str, Tokens]] = {}
    with httpx.Client(base_url=base_url, headers={"x-api-key": admin}, timeout=60.0) as client:
        for wire, model in WIRES.items():
            found[wire] = {}
            for number, case in enumerate(CASES):
                agent = make_agent(client, model, case, number)
                if CASES[case] is not None:
                    write(client, agent, "service", FIELDS[:3], 0)
                    write(client, agent, "desk", FIELDS[:2], 0)
                with ThreadPoolExecutor(4) as pool:
                    play = partial(session, client, agent, case, turns=turns)
                    totals = list(pool.map(play, range(sessions)))
                found[wire][case] = Tokens(sum(t.input for t in totals), sum(t.cached for t in totals))
                print(f"{wire}, {case}: {found[wire][case].share:.1%}", flush=True)
    return found


def report(found: dict[str, dict[str, Tokens]], sessions: int, turns: int) -> str:
    """Return the table."""
    lines = [
        "# Prompt caches",
        "",
        f"Made by `make bench-prompt-cache`. {sessions} sessions of {turns} turns, about 80 tokens a question and 140",
        "an answer, a client's system text of about 560 tokens, five blocks of about 500 tokens; before every third",
        "turn one field of a block of four is written. Cached tokens as the model server counts them: OpenAI's in",
        "steps of 128 from 1,024 on, Anthropic's at breakpoints with 20 blocks of look-back; both for five minutes.",
        "What is rendered anew on every call has the client's own breakpoints in Anthropic's wire; elsewhere the",
        "gateway places them. A session's share is the higher the longer its prompts are: with memory they are longer.",
        "",
        "| wire | sessions | input tokens | cached | not cached, a call | share | of that without memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for wire, cases in found.items():
        base = cases["without memory"].share
        for case, tokens in cases.items():
            share = f"{tokens.share:.1%} | {tokens.share / base:.1%}"
            rest = (tokens.input - tokens.cached) / (sessions * turns)
            lines.append(f"| {wire} | {case} | {tokens.input:,} | {tokens.cached:,} | {rest:,.0f} | {share} |")
    return "\n".join([*lines, "", f"The bar for `memory` is {BAR:.0%}.", ""])


def main() -> None:
    """Measure, write the table, and fail below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--turns", type=int, default=30)
    given = parser.parse_args()
    with served() as (base_url, admin):
        found = measure(base_url, admin, given.sessions, given.turns)
    text = report(found, given.sessions, given.turns)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)
    for wire, cases in found.items():
        if cases["memory"].share < BAR * cases["without memory"].share:
            sys.exit(f"{wire}: memory takes more of the cache than it may")


if __name__ == "__main__":
    main()
