"""The conversation that a log amounts to: what the model is shown, when it is asked, what is waited for."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.events import Event
from trunkline.domain.times import now
from trunkline.runtime.context import Conversation


def log(*events: tuple[str, dict[str, Any]]) -> list[Event]:
    return [Event(event_id(seq), seq, kind, payload, now(), None) for seq, (kind, payload) in enumerate(events, 1)]


def event_id(seq: int) -> UUID:
    return UUID(int=seq)


def name(seq: int) -> str:
    return ids.encode("sevt", event_id(seq))


def text(words: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": words}]


def user(words: str) -> tuple[str, dict[str, Any]]:
    return "user.message", {"content": text(words)}


def agent(words: str) -> tuple[str, dict[str, Any]]:
    return "agent.message", {"content": text(words)}


def use(tool: str, **given: Any) -> tuple[str, dict[str, Any]]:
    return "agent.custom_tool_use", {"name": tool, "input": given}


def result(seq: int, words: str) -> tuple[str, dict[str, Any]]:
    return "user.custom_tool_result", {"custom_tool_use_id": name(seq), "content": text(words)}


def idle(reason: str = "end_turn") -> tuple[str, dict[str, Any]]:
    return "session.status_idle", {"stop_reason": {"type": reason}}


RUNNING: tuple[str, dict[str, Any]] = ("session.status_running", {})
START: tuple[str, dict[str, Any]] = ("span.model_request_start", {})
END: tuple[str, dict[str, Any]] = ("span.model_request_end", {"is_error": False})
FAILED: tuple[str, dict[str, Any]] = ("span.model_request_end", {"is_error": True})
ERROR: tuple[str, dict[str, Any]] = ("session.error", {"error": {}})
INTERRUPT: tuple[str, dict[str, Any]] = ("user.interrupt", {})


def said(conversation: Conversation) -> list[tuple[str, str]]:
    """The texts in order, with who said them."""
    return [
        (message["role"], block["text"])
        for message in conversation.messages
        for block in message["content"]
        if block["type"] == "text"
    ]


def test_a_message_waits_for_the_model_until_a_step_takes_it_up() -> None:
    conversation = Conversation(log(user("hi"), RUNNING))
    assert conversation.wants_model
    assert conversation.messages == []
    conversation = Conversation(log(user("hi"), RUNNING, START))
    assert conversation.messages == [{"role": "user", "content": text("hi")}]
    assert conversation.queued == []


def test_a_step_without_an_outcome_is_asked_again_and_an_answered_one_is_not() -> None:
    assert Conversation(log(user("hi"), START)).wants_model
    assert not Conversation(log(user("hi"), START, agent("hello"), END, idle())).wants_model
    assert not Conversation(log(user("hi"), START, agent("hello"), END)).wants_model  # killed before the idle event


def test_what_comes_while_the_model_answers_is_shown_to_it_after_its_answer() -> None:
    conversation = Conversation(log(user("one"), START, user("two"), agent("first"), END))
    assert conversation.wants_model
    assert said(conversation) == [("user", "one"), ("assistant", "first")]
    conversation.take_up()
    assert said(conversation) == [("user", "one"), ("assistant", "first"), ("user", "two")]


def test_messages_in_a_row_are_one_message_with_several_blocks() -> None:
    conversation = Conversation(log(user("one"), user("two"), START))
    assert conversation.messages == [{"role": "user", "content": [*text("one"), *text("two")]}]


def test_tool_calls_wait_for_every_result_and_results_come_before_other_words() -> None:
    events = log(user("hi"), START, agent("let me see"), use("a", x=1), use("b"), END, idle("requires_action"))
    conversation = Conversation(events)
    assert list(conversation.waits_for) == [name(4), name(5)]
    assert not conversation.wants_model
    for event in (
        Event(event_id(8), 8, *user("hurry"), now(), None),
        Event(event_id(9), 9, *result(5, "B"), now(), None),
    ):
        conversation.add(event)
    assert list(conversation.waits_for) == [name(4)]
    assert not conversation.wants_model
    conversation.add(Event(event_id(10), 10, *result(4, "A"), now(), None))
    assert list(conversation.waits_for) == []
    assert conversation.wants_model
    conversation.take_up()
    assert conversation.messages[1]["content"] == [
        *text("let me see"),
        {"type": "tool_use", "id": name(4), "name": "a", "input": {"x": 1}},
        {"type": "tool_use", "id": name(5), "name": "b", "input": {}},
    ]
    assert conversation.messages[2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": name(4), "content": text("A")},
            {"type": "tool_result", "tool_use_id": name(5), "content": text("B")},
            *text("hurry"),
        ],
    }


def test_an_interrupt_ends_the_turn_and_gives_open_calls_a_result() -> None:
    assert not Conversation(log(user("hi"), RUNNING, INTERRUPT)).wants_model
    assert not Conversation(log(user("hi"), START, INTERRUPT, FAILED)).wants_model
    conversation = Conversation(log(user("hi"), START, use("a"), END, idle("requires_action"), INTERRUPT, user("now")))
    assert conversation.waits_for == ()
    assert conversation.wants_model
    conversation.take_up()
    interrupted, words = conversation.messages[2]["content"]
    assert (interrupted["tool_use_id"], interrupted["is_error"]) == (name(3), True)
    assert words["text"] == "now"


def test_a_result_that_comes_after_its_call_was_interrupted_is_not_shown_and_asks_for_nothing() -> None:
    conversation = Conversation(
        log(user("hi"), START, use("a"), END, INTERRUPT, user("now"), START, agent("well"), END, idle(), result(3, "A"))
    )
    assert not conversation.wants_model
    conversation.take_up()
    assert conversation.messages[-1] == {"role": "assistant", "content": text("well")}


def test_failures_are_counted_until_the_model_answers_or_the_turn_is_dead() -> None:
    failing = [user("hi"), START, FAILED, ERROR, START, FAILED, ERROR]
    conversation = Conversation(log(*failing))
    assert conversation.failures == 2
    assert conversation.wants_model
    assert Conversation(log(*failing, START, agent("hello"), END)).failures == 0
    dead = Conversation(log(*failing, user("still there?"), idle("retries_exhausted")))
    assert (dead.failures, dead.wants_model, dead.queued) == (0, False, [])


def test_a_log_that_the_gateway_wrote_reads_as_its_client_saw_it() -> None:
    call: tuple[str, dict[str, Any]] = ("agent.custom_tool_use", {"id": "toolu_1", "name": "a", "input": {"x": 1}})
    answer = ("user.custom_tool_result", {"custom_tool_use_id": "toolu_1", "content": text("A")})
    memory: list[tuple[str, dict[str, Any]]] = [
        ("agent.tool_use", {"name": "memory_update", "input": {}}),
        ("agent.tool_result", {"tool_use_id": "x"}),
    ]
    conversation = Conversation(
        log(user("hi"), *memory, agent("hello"), call, idle("requires_action"), answer, agent("done"), idle())
    )
    assert not conversation.wants_model
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "user", "assistant"]
    assert conversation.messages[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": text("A")}
    ]


def test_operators_words_are_a_message_of_their_own() -> None:
    conversation = Conversation(log(user("hi"), ("system.message", {"content": text("be brief")}), START))
    assert [message["role"] for message in conversation.messages] == ["user", "system"]


def test_what_waits_when_a_limit_is_reached_still_waits_when_it_is_raised() -> None:
    stop = idle("budget_reached")
    assert Conversation(log(user("a"), stop)).wants_model
    assert Conversation(log(user("a"), START, FAILED, ERROR, stop)).wants_model  # it was to be tried again
    assert not Conversation(log(user("a"), START, agent("b"), END, stop)).wants_model
    served = ("agent.tool_use", {"name": "t", "input": {}, "evaluated_permission": "allow"})
    waiting = Conversation(log(user("a"), START, served, END, stop))
    assert waiting.not_begun == {name(3)} == {call.event_id for call in waiting.to_carry_out}
    begun = Conversation(log(user("a"), START, served, END, stop, RUNNING, ("session.usage", {"usage": {}})))
    assert not begun.not_begun
    assert begun.to_carry_out
