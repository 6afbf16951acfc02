"""What a session with redaction keeps: marks, each turn once; the provider is sent what the client said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support.memory import ok
from support.postgres import DatabaseUrls, copied_database, temporary_home
from support.recording import rows_with
from support.stack import Stack, eventually, serving
from trunkline.store.embedded import ConnectionInfo

CARD = "4111 1111 1111 1111"
REDACT = ["email", "credit_card"]
AGAIN = ["say two", "say three"]
MARKED = "mine are [email] and [credit_card]"
LOG = [("user.message", f"say {MARKED}"), ("agent.message", MARKED)] + [
    (kind, text)
    for word in ("two", "three")
    for kind, text in (("user.message", f"say {word}"), ("agent.message", word))
]


class Kept:
    """A stack that stores the bodies of calls too, and all that it keeps."""

    def __init__(self, stack: Stack, database: DatabaseUrls, home: Path) -> None:
        self.stack = stack
        self.database = database
        self.home = home

    def places(self, word: str) -> dict[str, int]:
        """Where a word is kept: tables, and files of the processes."""
        files = {
            str(path.relative_to(self.home)): 1
            for path in self.home.rglob("*")
            if path.is_file() and word.encode() in path.read_bytes()
        }
        return rows_with(self.database, word) | files


@pytest.fixture(scope="module")
def kept(postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[Kept]:
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, scripted_model, home, more="record: {bodies: all}\n") as stack,
    ):
        environment = stack.gateway.environment | {"TRUNKLINE_BASE_URL": stack.base_url}
        command = [sys.executable, "-m", "trunkline", "worker", "--config", str(home / "trunkline.yaml")]
        with (home / "worker.log").open("w") as log:
            worker = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=home)
        try:
            yield Kept(stack, database, home)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)


def make_agent(stack: Stack, redact: Any = REDACT, **more: Any) -> str:
    name = f"clerk-{uuid4().hex[:8]}"
    with stack.http() as http:
        memory = {"redact": redact, "blocks": {}, **more}
        return str(ok(http.post("/v1/agents", json={"name": name, "model": "gpt", "memory": memory}))["name"])


def said(stack: Stack, session: str) -> list[tuple[str, str]]:
    return [
        (event.type, "".join(part.text for part in event.content))
        for event in stack.events(session)
        if event.type in {"user.message", "agent.message"}
    ]


def asked_last(stack: Stack) -> str:
    """What the provider was asked last, all messages."""
    return json.dumps(stack.asked()[-1]["body"]["messages"], ensure_ascii=False)


def chat(stack: Stack, agent: str, texts: list[str], *, streams: bool) -> list[str]:
    messages: list[Any] = []
    sessions = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        raw = stack.openai().chat.completions.with_raw_response.create(
            model=f"agent/{agent}", messages=messages, user="cus_1", stream=streams
        )
        sessions.append(raw.headers["x-trunkline-session"])
        parsed: Any = raw.parse()
        if streams:
            answer = "".join(chunk.choices[0].delta.content or "" for chunk in parsed if chunk.choices)
        else:
            answer = parsed.choices[0].message.content
        assert answer == text.removeprefix("say "), "the client is given what the model said"
        messages.append({"role": "assistant", "content": answer})
    return sessions


def messages(stack: Stack, agent: str, texts: list[str], *, streams: bool) -> list[str]:
    history: list[Any] = []
    sessions = []
    for text in texts:
        history.append({"role": "user", "content": [{"type": "text", "text": text}]})
        given: Any = {
            "model": f"agent/{agent}",
            "max_tokens": 99,
            "messages": history,
            "metadata": {"user_id": "cus_1"},
        }
        if streams:
            with stack.anthropic().messages.stream(**given) as stream:
                reply = stream.get_final_message()
                sessions.append(stream.response.headers["x-trunkline-session"])
        else:
            raw = stack.anthropic().messages.with_raw_response.create(**given)
            reply = raw.parse()
            sessions.append(raw.headers["x-trunkline-session"])
        history.append({"role": "assistant", "content": reply.content})
    return sessions


def responses(stack: Stack, agent: str, texts: list[str], *, streams: bool, conversation: bool = False) -> list[str]:
    client = stack.openai(default_headers={"x-trunkline-user": "cus_1", "x-trunkline-agent": agent})
    on: dict[str, Any] = {"conversation": client.conversations.create().id} if conversation else {}
    sessions = []
    for text in texts:
        given: Any = {"model": f"agent/{agent}", "input": text, **on}
        if streams:
            with client.responses.stream(**given) as stream:
                reply: Any = stream.get_final_response()
                sessions.append(stream._response.headers["x-trunkline-session"])
        else:
            raw = client.responses.with_raw_response.create(**given)
            reply = raw.parse()
            sessions.append(raw.headers["x-trunkline-session"])
        if not conversation:
            on = {"previous_response_id": reply.id}
    return sessions


def conversations(stack: Stack, agent: str, texts: list[str], *, streams: bool) -> list[str]:
    return responses(stack, agent, texts, streams=streams, conversation=True)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("talk", [chat, messages, responses, conversations])
def test_a_session_goes_on_and_keeps_marks_alone(kept: Kept, talk: Callable[..., list[str]], streams: bool) -> None:
    stack, agent = kept.stack, make_agent(kept.stack)
    mail = f"{uuid4().hex}@example.com"
    sessions = talk(stack, agent, [f"say mine are {mail} and {CARD}", *AGAIN], streams=streams)
    assert len(set(sessions)) == 1, "it was forked"
    assert said(stack, sessions[0]) == LOG
    rows = stack.rows(
        "select content from trunkline.passages where session_id = %s::uuid order by place",
        sessions[0].removeprefix("sesn_"),
    )
    assert [row["content"] for row in rows] == [text for _, text in LOG]
    # What the client sends passes as it is; what is read from the log is what that says.
    first, last = (json.dumps(one["body"]["messages"]) for one in (stack.asked()[-3], stack.asked()[-1]))
    assert mail.split("@")[1] in first
    assert ("[email]" in last, "example.com" in last) == (
        (True, False) if talk in (responses, conversations) else (False, True)
    )
    bodies = "select count(*) as n from trunkline.call_bodies where strpos(request::text, '[email]') > 0"
    assert eventually(lambda: stack.rows(bodies)[0]["n"] > 0)
    assert kept.places(mail) == {}
    assert kept.places(CARD) == {}


def test_a_log_that_a_client_read_and_sends_is_gone_on_with(kept: Kept) -> None:
    stack, agent = kept.stack, make_agent(kept.stack)
    sessions = chat(stack, agent, [f"say mine are ada@example.com and {CARD}"], streams=False)
    roles = {"user.message": "user", "agent.message": "assistant"}
    read: list[Any] = [{"role": roles[kind], "content": text} for kind, text in said(stack, sessions[0])]
    raw = stack.openai().chat.completions.with_raw_response.create(
        model=f"agent/{agent}", messages=[*read, {"role": "user", "content": "say two"}], user="cus_1"
    )
    assert raw.headers["x-trunkline-session"] == sessions[0]
    assert said(stack, sessions[0]) == LOG[:4]


def test_what_tools_of_memory_are_called_with_is_kept_as_marks(kept: Kept) -> None:
    stack, agent = kept.stack, make_agent(kept.stack, tools=True)
    mail = f"{uuid4().hex}@example.com"
    sessions = []
    history: list[Any] = []
    for text in (f"note down {mail}", *AGAIN):
        history.append({"role": "user", "content": text})
        raw = stack.anthropic().beta.messages.with_raw_response.create(
            model=f"agent/{agent}",
            max_tokens=99,
            messages=history,
            metadata={"user_id": "cus_1"},
            tools=[{"type": "memory_20250818", "name": "memory"}],
            betas=["context-management-2025-06-27"],
        )
        sessions.append(raw.headers["x-trunkline-session"])
        history.append({"role": "assistant", "content": raw.parse().content})
    assert len(set(sessions)) == 1
    uses = [event for event in stack.events(sessions[0]) if event.type == "agent.tool_use"]
    assert uses[0].input["file_text"] == "# Notes\n[email]\n"
    assert kept.places(mail) == {}


def test_items_that_are_put_into_a_conversation_are_gone_on_with(kept: Kept) -> None:
    stack, agent = kept.stack, make_agent(kept.stack)
    client = stack.openai(default_headers={"x-trunkline-user": "cus_1", "x-trunkline-agent": agent})
    mail = f"{uuid4().hex}@example.com"
    halves: Any = [{"type": "input_text", "text": part} for part in (f"I am {mail[:20]}", mail[20:])]
    made = client.conversations.create(items=[{"type": "message", "role": "user", "content": halves}])
    for text in AGAIN:
        raw = client.responses.with_raw_response.create(model=f"agent/{agent}", input=text, conversation=made.id)
        assert raw.headers["x-trunkline-session"] == made.id.replace("conv_", "sesn_")
    assert said(stack, made.id.replace("conv_", "sesn_")) == [("user.message", "I am [email]"), *LOG[2:]]
    assert kept.places(mail) == {}


def test_a_workers_session_keeps_marks_and_its_model_is_shown_them(kept: Kept) -> None:
    stack, agent = kept.stack, make_agent(kept.stack)
    mail = f"{uuid4().hex}@example.com"

    def goes(log: list[tuple[str, str]]) -> bool:
        return said(stack, session) == log

    with stack.http() as http:
        session = ok(http.post("/v1/sessions", json={"agent": agent, "metadata": {"user_id": "cus_1"}}))["id"]
        for count, text in enumerate((f"say mine are {mail} and {CARD}", *AGAIN), start=1):
            event = {"type": "user.message", "content": [{"type": "text", "text": text}]}
            ok(http.post(f"/v1/sessions/{session}/events", json={"events": [event]}))
            assert eventually(partial(goes, LOG[: 2 * count]))
    assert said(stack, session) == LOG
    assert MARKED in asked_last(stack)
    forks = "select count(*) as n from trunkline.sessions where root_id = %s::uuid"
    assert stack.rows(forks, session.removeprefix("sesn_")) == [{"n": 1}]
    assert kept.places(mail) == {}
    assert kept.places(CARD) == {}


def test_an_answer_is_kept_as_it_was_given_under_an_idempotency_key_alone(kept: Kept) -> None:
    stack, agent = kept.stack, make_agent(kept.stack)
    mail = f"{uuid4().hex}@example.com"

    def ask() -> str:
        answer = stack.openai().chat.completions.create(
            model=f"agent/{agent}",
            messages=[{"role": "user", "content": f"say {mail}"}],
            user="cus_1",
            extra_headers={"idempotency-key": mail},
        )
        return str(answer.choices[0].message.content)

    assert ask() == mail
    assert eventually(lambda: rows_with(kept.database, mail) == {"idempotent_calls": 1})
    assert ask() == mail, "a repeat is given what the first call was"


def test_a_log_that_is_to_be_kept_as_it_was_said_is(kept: Kept) -> None:
    stack = kept.stack
    agent = make_agent(stack, {"detect": ["email"], "log": False})
    text = f"say {uuid4().hex}@example.com"
    sessions = responses(stack, agent, [text, *AGAIN], streams=False)
    assert len(set(sessions)) == 1
    assert said(stack, sessions[0])[:2] == [("user.message", text), ("agent.message", text.removeprefix("say "))]
    rows = stack.rows(
        "select content from trunkline.passages where session_id = %s::uuid order by place",
        sessions[0].removeprefix("sesn_"),
    )
    assert [row["content"] for row in rows][:2] == ["say [email]", "[email]"]


def test_a_redaction_that_is_asked_for_later_holds_from_then_on(kept: Kept) -> None:
    """The turn that has to be hashed anew parts the conversation once; after that it goes on."""
    stack, agent = kept.stack, make_agent(kept.stack, [])
    texts = [f"say mine are ada@example.com and {CARD}", *AGAIN]
    before = chat(stack, agent, texts[:1], streams=False)
    with stack.http() as http:
        found = ok(http.get(f"/v1/agents/{agent}"))
        ok(
            http.post(
                f"/v1/agents/{found['id']}",
                json={"version": found["version"], "memory": {"redact": REDACT, "blocks": {}}},
            )
        )
    after = chat_from(stack, agent, texts)
    assert before[0] not in after
    assert len(set(after)) == 1
    assert said(stack, after[0]) == LOG


def chat_from(stack: Stack, agent: str, texts: list[str]) -> list[str]:
    """Go on with a conversation whose first turn was before."""
    history: list[Any] = [
        {"role": "user", "content": texts[0]},
        {"role": "assistant", "content": texts[0].removeprefix("say ")},
    ]
    sessions = []
    for text in texts[1:]:
        history.append({"role": "user", "content": text})
        raw = stack.openai().chat.completions.with_raw_response.create(
            model=f"agent/{agent}", messages=history, user="cus_1"
        )
        sessions.append(raw.headers["x-trunkline-session"])
        history.append({"role": "assistant", "content": text.removeprefix("say ")})
    return sessions
