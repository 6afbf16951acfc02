"""Conversations of plain clients as sessions: found again by what they send, forked by edits, and read back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import openai
import pytest

from support.memory import ok
from support.stack import Stack


def make_agent(stack: Stack, memory: Any = None) -> str:
    name = f"talker-{uuid4().hex[:8]}"
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": "gpt", "memory": memory or {"recall": False}}))
    return name


class Talk:
    """A client with a conversation, which it sends whole each time, as clients do."""

    def __init__(self, stack: Stack, agent: str, user: str = "cus_1") -> None:
        self.stack = stack
        self.agent = agent
        self.user = user
        self.messages: list[Any] = []
        self.session = ""

    def say(self, text: str, *, by: str = "openai", streams: bool = False, session: str | None = None) -> str:
        """Say something; return what the agent answers."""
        self.messages.append({"role": "user", "content": text})
        headers = {"x-trunkline-session": session} if session else {}
        if by == "openai":
            raw = self.stack.openai().chat.completions.with_raw_response.create(
                model=f"agent/{self.agent}",
                messages=self.messages,
                user=self.user,
                stream=streams,
                extra_headers=headers,
            )
            self.session = raw.headers["x-trunkline-session"]
            parsed: Any = raw.parse()
            if streams:
                answer = "".join(chunk.choices[0].delta.content or "" for chunk in parsed)
            else:
                answer = parsed.choices[0].message.content
        else:
            given: Any = {"model": f"agent/{self.agent}", "max_tokens": 99, "messages": self.messages}
            given |= {"metadata": {"user_id": self.user}, "extra_headers": headers}
            with self.stack.anthropic().messages.stream(**given) as stream:
                answer = stream.get_final_message().content[0].text  # type: ignore[union-attr]
                self.session = stream.response.headers["x-trunkline-session"]
        self.messages.append({"role": "assistant", "content": answer})
        return answer


def said(stack: Stack, session: str) -> list[tuple[str, str]]:
    """What was said in a session, by whom, as its log has it."""
    return [
        (event.type, event.content[0].text)
        for event in stack.events(session)
        if event.type in {"user.message", "agent.message"}
    ]


def test_a_conversation_is_found_again_by_what_it_says(stack: Stack) -> None:
    talk = Talk(stack, make_agent(stack))
    sessions = []
    for number, (by, streams) in enumerate(
        [("openai", False), ("openai", True), ("anthropic", True), ("openai", False)]
    ):
        assert talk.say(f"say answer {number}", by=by, streams=streams) == f"answer {number}"
        sessions.append(talk.session)
        # Read back at once, through the gateway: one's own turn is there.
        assert said(stack, talk.session)[-2:] == [
            ("user.message", f"say answer {number}"),
            ("agent.message", f"answer {number}"),
        ]
    assert len(set(sessions)) == 1
    kinds = [event.type for event in stack.events(talk.session)]
    assert kinds == ["user.message", "agent.message", "session.status_idle"] * 4
    session = stack.anthropic().beta.sessions.retrieve(talk.session)
    assert session.agent.name == talk.agent
    assert session.usage.input_tokens


def test_it_is_found_by_another_gateways_log_too(stack: Stack) -> None:
    """What one process knows by heart, the store knows as well: here it is told nothing but the messages."""
    agent = make_agent(stack)
    talk = Talk(stack, agent)
    talk.say("say one")
    first = talk.session
    # The same words by another user are another conversation.
    other = Talk(stack, agent, "cus_2")
    other.messages = [*talk.messages]
    other.say("say two")
    assert other.session != first
    talk.say("say two")
    assert talk.session == first


def test_two_conversations_that_begin_alike_stay_apart(stack: Stack) -> None:
    agent = make_agent(stack)
    one, two = Talk(stack, agent), Talk(stack, agent)
    one.say("say hello")
    two.say("say hello")
    assert one.session != two.session
    session = one.session
    one.say("say how are you", session=session)
    assert one.session == session
    two.say("say goodbye", session=two.session)
    assert said(stack, session)[-1] == ("agent.message", "how are you")
    assert said(stack, two.session)[-1] == ("agent.message", "goodbye")


def family(stack: Stack, session: str) -> list[str]:
    """The session and its forks, oldest first."""
    found = stack.rows(
        "select id from trunkline.sessions where root_id = "
        "(select root_id from trunkline.sessions where id = %s) order by created_at, id",
        session.removeprefix("sesn_"),
    )
    return [f"sesn_{row['id'].hex}" for row in found]


@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_an_edited_history_becomes_a_fork_and_goes_on_there(stack: Stack, *, named: bool) -> None:
    talk = Talk(stack, make_agent(stack))
    talk.say("say one")
    talk.say("say two")
    talk.say("say three")
    session = talk.session
    before = said(stack, session)
    told = session if named else None

    talk.messages = talk.messages[:2]
    talk.say("say another two", session=told)
    fork = talk.session
    assert fork != session, "the answer tells where the turn is"
    expected = [*before[:2], ("user.message", "say another two"), ("agent.message", "another two")]
    assert said(stack, fork) == expected
    assert said(stack, session) == before, "the first course is as it was"

    talk.say("say another three", session=told)
    assert talk.session == fork
    expected += [("user.message", "say another three"), ("agent.message", "another three")]
    assert said(stack, fork) == expected

    # And a fork of the fork, by a client that names the first one still.
    talk.messages = talk.messages[:4]
    talk.say("say a third three", session=told)
    newest = talk.session
    talk.say("say a third four", session=told)
    assert talk.session == newest
    assert said(stack, newest) == [
        *expected[:4],
        ("user.message", "say a third three"),
        ("agent.message", "a third three"),
        ("user.message", "say a third four"),
        ("agent.message", "a third four"),
    ]
    assert said(stack, fork) == expected
    assert said(stack, session) == before
    assert set(family(stack, session)) == {session, fork, newest}


def test_a_turn_asked_for_again_is_a_fork_even_with_the_same_answer(stack: Stack) -> None:
    talk = Talk(stack, make_agent(stack))
    talk.say("say one")
    talk.say("say two")
    session, before = talk.session, said(stack, talk.session)
    talk.messages = talk.messages[:2]
    talk.say("say two")
    fork = talk.session
    assert fork != session
    assert said(stack, session) == said(stack, fork) == before
    talk.say("say three")
    assert talk.session in {session, fork}, "the history fits both"
    assert [text for _, text in said(stack, talk.session)][-4:] == ["say two", "two", "say three", "three"]
    kinds = [event.type for event in stack.events(talk.session)]
    assert kinds == ["user.message", "agent.message", "session.status_idle"] * 3


def test_a_history_that_began_elsewhere_is_taken_in(stack: Stack) -> None:
    talk = Talk(stack, make_agent(stack))
    talk.messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello. I am a model."}]
    talk.say("say more")
    assert said(stack, talk.session) == [
        ("user.message", "hello"),
        ("agent.message", "Hello. I am a model."),
        ("user.message", "say more"),
        ("agent.message", "more"),
    ]
    session = talk.session
    talk.say("say even more")
    assert talk.session == session


def test_many_turns_at_once_from_one_point_lose_nothing(stack: Stack) -> None:
    agent = make_agent(stack)
    start = Talk(stack, agent)
    start.say("say start")

    def go_on(number: int) -> Talk:
        talk = Talk(stack, agent)
        talk.messages = list(start.messages)
        talk.say(f"say branch {number}")
        talk.say(f"say leaf {number}")
        return talk

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(go_on, range(8)))
    said(stack, start.session)  # through the gateway, which waits until the store has all turns
    logs = sorted(said(stack, session)[-1][1] for session in family(stack, start.session))
    assert logs == sorted(f"leaf {number}" for number in range(8))
    for session in family(stack, start.session):
        texts = [text for kind, text in said(stack, session) if kind == "agent.message"]
        number = texts[-1].split()[-1]
        assert texts == ["start", f"branch {number}", f"leaf {number}"]


def test_a_refused_call_leaves_no_turn(stack: Stack) -> None:
    agent = make_agent(stack)
    talk = Talk(stack, agent)
    talk.say("say one")
    before = said(stack, talk.session)
    for fault in ("error-500", "cut-0"):
        with pytest.raises(openai.InternalServerError):
            stack.openai().chat.completions.create(
                model=f"oai/{fault}",
                messages=[*talk.messages, {"role": "user", "content": "say lost"}],
                user="cus_1",
                extra_headers={"x-trunkline-agent": agent},
            )
    assert said(stack, talk.session) == before
    session = talk.session
    talk.say("say two")
    assert talk.session == session
