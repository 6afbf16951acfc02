"""Memory that keeps providers' prompt caches: each prompt begins as the one before, whichever gateway sends it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from support.memory import CUSTOMER, ok, write
from support.postgres import copied_database, temporary_home
from support.stack import Part, Stack, eventually, serving, wait_ready
from trunkline.store.embedded import ConnectionInfo

WIRES = ["chat", "messages", "responses", "gemini"]
MODELS = {"chat": "gpt", "messages": "claude", "responses": "duo", "gemini": "gemini"}
UPDATE = "trunkline-memory-update"
PREFIX = "x-trunkline-prefix-hash"


@pytest.fixture(scope="module")
def pair(postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[tuple[Stack, Part]]:
    """A stack, and a second gateway over its database that tests may kill."""
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, scripted_model, home) as stack,
    ):
        other = home / "other"
        other.mkdir()
        arguments = stack.gateway.arguments.copy()
        arguments[2] = "127.0.0.1:0"
        second = Part(arguments, {**stack.gateway.environment, "TRUNKLINE_HOME": str(other)}, home / "second.log")
        try:
            wait_ready(second.start())
            arguments[2] = second.base_url.removeprefix("http://")
            yield stack, second
        finally:
            second.end()


def make_agent(stack: Stack, model: str, **memory: Any) -> str:
    name = f"keeper-{uuid4().hex[:8]}"
    blocks = {"customer": CUSTOMER, "notes": {"scope": "user", "fields": {"text": {"type": "string"}}}}
    given = {"blocks": blocks, "tools": False, "recall": False, **memory}
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": model, "system": "You help.", "memory": given}))
    return name


def learn(stack: Stack, agent: str, user: str, text: str, place: str = "customer.name") -> None:
    block, _, field_name = place.partition(".")
    with stack.http() as http:
        ok(write(http, agent, block, {"op": "set", "field": field_name, "value": text}, user_id=user))


@dataclass
class Talk:
    """A plain client: it sends what was said, in its own wire, and nothing of what a gateway put in."""

    stack: Stack
    wire: str
    agent: str
    user: str = field(default_factory=lambda: f"cus_{uuid4().hex[:8]}")
    said: list[tuple[str, str]] = field(default_factory=list)
    session: str = ""
    prefix: str | None = None
    state: str = ""

    def say(self, text: str, base_url: str = "", **headers: str) -> list[Any]:
        """Say something by a gateway; return what the provider was sent of it, in pieces."""
        self.said.append(("user", text))
        path, body = self.request()
        given = {"x-api-key": self.stack.key, "x-trunkline-agent": self.agent, "x-trunkline-user": self.user, **headers}
        answer = httpx.post((base_url or self.stack.base_url) + path, json=body, headers=given, timeout=30)
        assert answer.status_code == 200, answer.text
        self.session, self.prefix = answer.headers["x-trunkline-session"], answer.headers.get(PREFIX)
        self.state = answer.headers["x-trunkline-memory"]
        self.said.append(("assistant", answered(answer.json())))
        sent = next(
            entry for entry in reversed(self.stack.asked()) if text in json.dumps(entry["body"], ensure_ascii=False)
        )
        return pieces(sent["body"])

    def request(self) -> tuple[str, Any]:
        model = MODELS[self.wire]
        if self.wire == "gemini":
            parts = [
                {"role": "model" if who == "assistant" else who, "parts": [{"text": text}]} for who, text in self.said
            ]
            return f"/v1beta/models/{model}:generateContent", {"contents": parts}
        messages = [{"role": who, "content": text} for who, text in self.said]
        if self.wire == "responses":
            return "/v1/responses", {"model": model, "input": messages}
        if self.wire == "messages":
            return "/v1/messages", {"model": model, "max_tokens": 300, "messages": messages}
        return "/v1/chat/completions", {"model": model, "messages": messages}

    def settled(self) -> None:
        """Wait until the store has all of the session's turns."""
        turns = sum(who == "assistant" for who, _ in self.said)
        ours = self.session.removeprefix("sesn_")
        query = "select count(*) as n from trunkline.events where session_id = %s::uuid and type = 'agent.message'"
        assert eventually(lambda: self.stack.rows(query, ours)[0]["n"] == turns)


def answered(body: Any) -> str:
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    if "candidates" in body:
        return str(body["candidates"][0]["content"]["parts"][0]["text"])
    if "output" in body:
        return str(body["output"][0]["content"][0]["text"])
    return str(body["content"][0]["text"])


def pieces(body: Any) -> list[Any]:
    """A request as (role, texts), breakpoints and the difference between a text and a list of one left out."""

    def texts(content: Any) -> list[str]:
        if isinstance(content, str):
            return [content]
        return [part["text"] for part in content or [] if "text" in part]

    found: list[Any] = []
    system = body.get("system") or body.get("instructions")
    if system is None and "systemInstruction" in body:
        system = body["systemInstruction"]["parts"]
    if system is not None:
        found.append(("system", texts(system)))
    messages = body.get("messages") or body.get("input") or body.get("contents")
    return found + [(message["role"], texts(message.get("content", message.get("parts")))) for message in messages]


def continues(before: list[Any], after: list[Any]) -> bool:
    """Whether a prompt begins as an earlier one does up to that one's newest user message."""
    newest = max(index for index, (role, _) in enumerate(before) if role == "user")
    return after[:newest] == before[:newest]


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("wire", WIRES)
def test_each_prompt_begins_as_the_one_before_by_either_gateway(
    pair: tuple[Stack, Part], wire: str, refresh: bool
) -> None:
    stack, second = pair
    talk = Talk(stack, wire, make_agent(stack, MODELS[wire], refresh_on_every_turn=refresh))
    learn(stack, talk.agent, talk.user, "Ada")
    before = talk.say("turn 0 begins")
    assert "Ada" in json.dumps(before)
    prefix, updates = talk.prefix, 0
    assert prefix is not None
    assert len(prefix) == 16
    for turn in range(1, 7):
        talk.settled()
        if turn in (2, 5):
            learn(stack, talk.agent, talk.user, f"Eve {turn}")
            updates += 1
        if turn == 4:
            # Killed once the store has what it answered; what it knew, the other must know.
            second.send(signal.SIGKILL)
            second.wait()
            wait_ready(second.start())
        base_url = second.base_url if turn % 2 else stack.base_url

        def told(turn: int = turn, base_url: str = base_url) -> list[Any]:
            return talk.say(f"turn {turn} goes on", base_url)

        after = told()
        assert talk.prefix == prefix
        assert continues(before, after), (before, after)
        # A copy learns of a change by NOTIFY, in a moment; the committed state is read at once.
        if refresh:
            assert json.dumps(after).count(f"<{UPDATE}>") == updates
            assert updates == 0 or f"Eve {5 if turn >= 5 else 2}" in json.dumps(after)
        before = after
    assert json.dumps(before).count(f"<{UPDATE}>") == updates
    talk.settled()
    events = stack.rows("select payload::text from trunkline.events where session_id = %s::uuid", talk.session[5:])
    assert UPDATE not in json.dumps(events), "the log has what was said, not what was put in"


def test_the_model_takes_the_newest_of_what_it_is_told(pair: tuple[Stack, Part]) -> None:
    stack, _ = pair
    talk = Talk(stack, "chat", make_agent(stack, "gpt"))
    for name in ("Ada", "Bob", "Eve"):
        learn(stack, talk.agent, talk.user, name)
        talk.say("What is my name?")
        assert name in talk.said[-1][1]


def test_it_is_rendered_anew_when_the_cache_has_expired(pair: tuple[Stack, Part]) -> None:
    stack, second = pair
    # By what this gateway knows of the session's last call.
    talk = Talk(stack, "chat", make_agent(stack, "gpt", prompt_cache={"ttl_seconds": 1}))
    talk.say("one")
    learn(stack, talk.agent, talk.user, "Ada")
    time.sleep(1.1)
    sent = talk.say("two")
    assert UPDATE not in json.dumps(sent)
    assert "Ada" in json.dumps(sent[:2])
    # By what the store knows of it.
    talk = Talk(stack, "chat", make_agent(stack, "gpt", prompt_cache={"ttl_seconds": 3600}))
    talk.say("one")
    learn(stack, talk.agent, talk.user, "Ada")
    assert UPDATE in json.dumps(talk.say("two"))
    frozen = talk.prefix
    talk.settled()
    with psycopg.connect(stack.admin_url) as connection:
        connection.execute(
            "update trunkline.sessions set updated_at = updated_at - interval '1 h 1 s' where id = %s::uuid",
            (talk.session[5:],),
        )
    sent = talk.say("three", second.base_url)
    assert talk.prefix != frozen
    assert UPDATE not in json.dumps(sent)
    assert "Ada" in json.dumps(sent[:2])
    talk.settled()
    kept = stack.rows(
        "select t.prefix, p.deltas from trunkline.session_prompts p join trunkline.prompt_prefixes t using (hash)"
        " where p.session_id = %s::uuid",
        talk.session[5:],
    )
    assert "Ada" in kept[0]["prefix"]
    assert kept[0]["deltas"] == []


def test_it_is_rendered_anew_when_changes_take_too_many_tokens(pair: tuple[Stack, Part]) -> None:
    stack, _ = pair
    talk = Talk(stack, "messages", make_agent(stack, "claude", token_budget=400))
    prefixes, most = [], 0
    for turn in range(8):
        learn(stack, talk.agent, talk.user, f"Name {turn}")
        most = max(most, json.dumps(talk.say(f"turn {turn}")).count(f"<{UPDATE}>"))
        prefixes.append(talk.prefix)
    assert 1 < len(set(prefixes)) < 8
    assert 1 <= most < 7


def test_a_fork_has_the_beginning_of_what_both_have_in_common(pair: tuple[Stack, Part]) -> None:
    stack, second = pair
    for base_url in (stack.base_url, second.base_url):
        talk = Talk(stack, "chat", make_agent(stack, "gpt"))
        talk.say("one")
        learn(stack, talk.agent, talk.user, "Ada")
        talk.say("two")
        learn(stack, talk.agent, talk.user, "a note", "notes.text")
        before = talk.say("three")
        prefix, session = talk.prefix, talk.session
        talk.settled()
        del talk.said[4:]
        after = talk.say("another three", base_url, **{"x-trunkline-session": session})
        assert talk.session != session
        assert talk.prefix == prefix
        assert after[:4] == before[:4], "instructions, blocks, and the first turn"
        assert "Ada" in json.dumps(after[4]), "what was said with the common part"
        assert "a note" in json.dumps(after[-1]), "what was said after it is said again, with the newest message"
        talk.settled()
        assert stack.rows("select 1 from trunkline.session_prompts where session_id = %s::uuid", talk.session[5:])
        again = talk.say("and four", base_url)
        assert continues(after, again)


def test_an_agent_that_declares_it_off_is_told_what_holds(pair: tuple[Stack, Part]) -> None:
    stack, _ = pair
    talk = Talk(stack, "messages", make_agent(stack, "claude", prompt_cache=False))
    for name in ("Ada", "Bob"):
        learn(stack, talk.agent, talk.user, name)
        sent = talk.say(f"I am {name}")
        assert name in sent[0][1][0]
        assert talk.prefix is None
        assert UPDATE not in json.dumps(sent)
    assert "cache_control" not in json.dumps(stack.asked()[-1]["body"])
    talk.settled()
    assert not stack.rows("select 1 from trunkline.session_prompts where session_id = %s::uuid", talk.session[5:])


@pytest.mark.parametrize("wire", ["messages", "chat"])
def test_anthropic_is_told_up_to_where_to_cache(pair: tuple[Stack, Part], wire: str) -> None:
    stack, _ = pair

    def marks(talk: Talk, **given: Any) -> int:
        talk.say(f"say {uuid4().hex}", **given)
        return json.dumps(stack.asked()[-1]["body"]).count('"cache_control"')

    talk = Talk(stack, wire, make_agent(stack, "claude"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "chat", "claude")
        assert marks(talk) == 1, "the system text; there is no history yet"
        assert marks(talk) == 2
        body = stack.asked()[-1]["body"]
        assert body["system"][-1]["cache_control"] == {"type": "ephemeral"}
        assert body["messages"][-2]["content"][-1]["cache_control"] == {"type": "ephemeral"}
        assert marks(Talk(stack, wire, make_agent(stack, "claude", prompt_cache={"cache_control": False}))) == 0
    if wire == "messages":
        own: Any = {"type": "text", "text": "mine", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        stack.anthropic().messages.create(
            model="claude", max_tokens=10, system=[own], messages=[{"role": "user", "content": "own marks"}],
            extra_headers={"x-trunkline-agent": talk.agent},
        )  # fmt: skip
        sent = json.dumps(stack.asked()[-1]["body"])
        assert sent.count('"cache_control"') == 1, "the client's own, and no other"


def texts(stack: Stack, talk: Talk) -> list[str]:
    """Return the names in what a user's sessions begin with, as the store has it for all of them."""
    rows = stack.rows("select prefix from trunkline.prompt_prefixes where user_id = %s", talk.user)
    return [name for row in rows for name in ("Secretta", "Public") if name in row["prefix"]]


def test_sessions_that_begin_alike_share_what_is_kept_of_it(pair: tuple[Stack, Part]) -> None:
    stack, second = pair
    talk = Talk(stack, "chat", make_agent(stack, "gpt"))
    learn(stack, talk.agent, talk.user, "Ada")
    more = [Talk(stack, "chat", talk.agent) for _ in range(3)]
    for each in more:
        each.user = talk.user
    for each in (talk, *more):
        each.say(f"one {uuid4().hex}")
        each.settled()
    rows = stack.rows("select prefix from trunkline.prompt_prefixes where user_id = %s", talk.user)
    assert len(rows) == 1
    learn(stack, talk.agent, talk.user, "Bob")
    for each in (talk, *more):
        frozen = each.prefix
        sent = json.dumps(each.say(f"two {uuid4().hex}", second.base_url))
        assert each.prefix == frozen, "the other gateway knows it from the store"
        assert "Ada" in sent
        assert UPDATE in sent
    talk.settled()
    with psycopg.connect(stack.admin_url) as connection:
        connection.execute("delete from trunkline.prompt_prefixes where user_id = %s", (talk.user,))
    assert UPDATE not in json.dumps(talk.say(f"three {uuid4().hex}")), "rendered anew where the text is gone"


def test_what_was_erased_or_redacted_is_not_said_from_a_copy(pair: tuple[Stack, Part]) -> None:
    stack, _ = pair
    talk = Talk(stack, "chat", make_agent(stack, "gpt"))
    learn(stack, talk.agent, talk.user, "Secretta")
    assert "Secretta" in json.dumps(talk.say("one")[:2])
    learn(stack, talk.agent, talk.user, "Public")
    assert "Secretta" in json.dumps(talk.say("two")[:2]), "kept, and superseded"
    talk.settled()
    with stack.http() as http:
        store = stack.rows("select id, subject from trunkline.memory_stores where subject = %s", talk.user)[0]["id"]
        store_id = f"memstore_{store.hex}"
        versions = ok(http.get(f"/v1/memory_stores/{store_id}/memory_versions"))["data"]
        oldest = min(versions, key=lambda version: version["created_at"])["id"]
        ok(http.post(f"/v1/memory_stores/{store_id}/memory_versions/{oldest}/redact"))

    def clean(text: str) -> bool:
        return "Secretta" not in json.dumps(talk.say(text))

    assert eventually(lambda: clean(f"three {uuid4().hex}")), "NOTIFY tells in a moment"
    talk.settled()
    assert texts(stack, talk) == ["Public"]
    with stack.http() as http:
        ok(http.post("/v1/erase", json={"user_id": talk.user}))
    assert not stack.rows("select 1 from trunkline.session_prompts where session_id = %s::uuid", talk.session[5:])
    assert texts(stack, talk) == []
    assert eventually(lambda: "Public" not in json.dumps(talk.say(f"four {uuid4().hex}")[:2]))


def test_what_a_store_forgets_no_prompt_keeps(pair: tuple[Stack, Part]) -> None:
    stack, _ = pair
    talk, other = (Talk(stack, "chat", make_agent(stack, "gpt")) for _ in range(2))
    for each in (talk, other):
        learn(stack, each.agent, each.user, "Secretta")
        assert "Secretta" in json.dumps(each.say("one")[:2])
        each.settled()
    store = stack.rows("select id from trunkline.memory_stores where subject = %s", talk.user)[0]["id"]
    with stack.http() as http:
        ok(http.post(f"/v1/memory_stores/memstore_{store.hex}/erase", json={"everything": True}))
    kept = "select 1 from trunkline.session_prompts where session_id = %s::uuid"
    assert not stack.rows(kept, talk.session[5:])
    assert texts(stack, talk) == []
    assert stack.rows(kept, other.session[5:]), "another user's is left alone"
    assert texts(stack, other) == ["Secretta"]
    assert eventually(lambda: "Secretta" not in json.dumps(talk.say(f"two {uuid4().hex}")[:2]))


def test_nothing_is_told_of_another_tenants_session(pair: tuple[Stack, Part]) -> None:
    stack, _ = pair
    talk = Talk(stack, "chat", make_agent(stack, "gpt"))
    talk.say("one")
    talk.settled()
    session = talk.session[5:]
    row = stack.rows("select tenant_id, agent_id from trunkline.sessions where id = %s::uuid", session)[0]
    query = "select prefix from trunkline.gateway_context(%s, %s, 1, %s, %s::uuid, null, null, 0, true)"
    assert stack.rows(query, row["tenant_id"], row["agent_id"], talk.user, session)[0]["prefix"]
    assert stack.rows(query, uuid4(), row["agent_id"], talk.user, session)[0]["prefix"] is None
    assert stack.rows(query, row["tenant_id"], row["agent_id"], "another", session)[0]["prefix"] is None
    named = replace(talk, user="another", said=[])
    with pytest.raises(AssertionError, match="There is no such session"):
        named.say("two", **{"x-trunkline-session": talk.session})
