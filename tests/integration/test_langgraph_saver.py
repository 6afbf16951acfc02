"""LangGraph's checkpointer over a control plane: the published conformance suite, real graphs, and what must not be."""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import psycopg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.initializer import RegisteredCheckpointer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from psycopg import sql

from support.control_plane import ControlPlane, running
from support.postgres import DatabaseUrls
from trunkline.errors import Conflict, InvalidRequest, NotFound, TooLarge, TrunklineError, Unauthenticated
from trunkline.langgraph import TrunklineSaver

CAPABILITIES = {"put", "put_writes", "get_tuple", "list", "delete_thread", "delete_for_runs", "copy_thread", "prune"}


class State(TypedDict):
    said: Annotated[list[str], operator.add]
    answer: str


def ask(state: State) -> dict[str, Any]:
    return {"said": [f"heard {state['said'][-1]}"]}


def wait(state: State) -> dict[str, Any]:
    return {"answer": interrupt({"question": "Shall I?"})}


def graph(saver: BaseCheckpointSaver[str]) -> Any:
    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_node("wait", wait)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "wait")
    builder.add_edge("wait", END)
    return builder.compile(checkpointer=saver)


def thread(name: str | None = None, **more: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": str(uuid4()) if name is None else name, "checkpoint_ns": "", **more}}


def put(saver: TrunklineSaver, config: RunnableConfig, **values: Any) -> RunnableConfig:
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = {name: saver.get_next_version(None, None) for name in values}
    return saver.put(config, checkpoint, {"source": "loop", "step": 1}, checkpoint["channel_versions"])


@pytest.fixture
def saver(plane: ControlPlane) -> Iterator[TrunklineSaver]:
    with TrunklineSaver(plane.base_url, plane.key) as made:
        yield made


async def test_it_conforms(plane: ControlPlane) -> None:
    async def made() -> AsyncGenerator[TrunklineSaver, None]:
        async with TrunklineSaver(plane.base_url, plane.key) as saver:
            yield saver

    registered: RegisteredCheckpointer = checkpointer_test("TrunklineSaver")(made)
    report = await validate(registered)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == CAPABILITIES


def test_a_graph_goes_on_where_it_was_interrupted(plane: ControlPlane, saver: TrunklineSaver) -> None:
    config = thread()
    stopped = graph(saver).invoke({"said": ["hello"], "answer": ""}, config)
    assert stopped["__interrupt__"][0].value == {"question": "Shall I?"}
    with TrunklineSaver(plane.base_url, plane.key) as elsewhere:  # another process, say
        ended = graph(elsewhere).invoke(Command(resume="yes"), config)
        assert ended == {"said": ["hello", "heard hello"], "answer": "yes"}
        history = list(graph(elsewhere).get_state_history(config))
    assert [state.values.get("answer") for state in history] == ["yes", "", "", None]
    past = graph(saver).get_state(history[2].config)
    assert past.next == ("ask",)


async def test_so_does_one_in_an_asynchronous_program_and_forks_stay_apart(saver: TrunklineSaver) -> None:
    config = thread()
    await graph(saver).ainvoke({"said": ["hello"], "answer": ""}, config)
    before = [state async for state in graph(saver).aget_state_history(config)]
    fork = await graph(saver).aupdate_state(before[0].config, {"said": ["a fork"]})
    ended = await graph(saver).ainvoke(Command(resume="main"), before[0].config)
    assert ended["said"] == ["hello", "heard hello"]
    assert (await graph(saver).aget_state(fork)).values["said"] == ["hello", "heard hello", "a fork"]
    await saver.aclose()


def test_long_histories_come_in_pages(plane: ControlPlane, saver: TrunklineSaver) -> None:
    config = thread()
    ids = []
    for _ in range(45):
        stored = put(saver, config)
        ids.append(stored["configurable"]["checkpoint_id"])
    listed = [found.checkpoint["id"] for found in saver.list(config)]
    assert listed == sorted(ids, reverse=True)
    assert [found.checkpoint["id"] for found in saver.list(config, limit=23)] == listed[:23]
    with TrunklineSaver(plane.base_url, plane.key, user="cus_lists") as bound:
        for name in ("a", "b"):
            put(bound, thread(f"lists {name}"))
        assert [found.config["configurable"]["thread_id"] for found in bound.list(None)] == ["lists b", "lists a"]


def grow(urls: DatabaseUrls, table: str, name: str, size: int) -> None:
    """Make what is kept of a thread large, without sending it."""
    query = sql.SQL(
        "update trunkline.{} set payload = decode(repeat('c0', %s), 'hex') "
        "where thread_id = (select id from trunkline.threads where name = %s)"
    )
    with psycopg.connect(urls.admin_url) as admin:
        admin.execute(query.format(sql.Identifier(table)), (size, name))


def test_large_states_come_one_by_one_and_what_is_too_large_is_refused(urls: DatabaseUrls) -> None:
    with running(urls, max_body_bytes=16 * 1024 * 1024) as plane, TrunklineSaver(plane.base_url, plane.key) as saver:
        config = thread("large")
        for _ in range(2):
            put(saver, config, c=b"", d=b"")
        grow(urls, "checkpoint_channels", "large", 8_500_000)
        with plane.http() as http:
            found = http.get("/v1/threads", params={"name": "large"}).json()["data"]
            page = http.get(f"/v1/threads/{found[0]['id']}/checkpoints").json()
        assert len(page["data"]) == 1, "two have 34 MB"
        assert page["next_page"]
        newest = saver.get_tuple(config)
        assert newest is not None
        again = newest.checkpoint | {"id": f"{newest.checkpoint['id']}x"}
        grow(urls, "checkpoint_channels", "large", 17_000_000)
        with pytest.raises(TooLarge, match="what its channels hold"):
            saver.put(config, again, {"source": "loop"}, {})
        with pytest.raises(TooLarge, match="values\\[0\\]"):
            put(saver, config, big=b"x" * (8 * 1024 * 1024 + 1))
        stored = put(saver, config)
        with pytest.raises(TooLarge, match="metadata"):
            saver.put(config, empty_checkpoint(), {"source": "loop", "run_id": "x" * 100_000}, {})
        saver.put_writes(stored, [("c", b"")], "task")
        grow(urls, "checkpoint_writes", "large", 33_600_000)
        with pytest.raises(TooLarge, match="writes"):
            saver.put_writes(stored, [("c", b"")], "another")


def test_another_users_thread_is_not_there(plane: ControlPlane) -> None:
    with TrunklineSaver(plane.base_url, plane.key) as saver:
        name = str(uuid4())
        stored = put(saver, thread(name, user_id="cus_1"), x="secret")
        assert saver.get_tuple(thread(name, user_id="cus_1")) is not None
        assert saver.get_tuple(thread(name, user_id="cus_2")) is None
        assert list(saver.list(thread(name, user_id="cus_2"))) == []
        with pytest.raises(Conflict, match="another user"):
            put(saver, thread(name, user_id="cus_2"))
        with pytest.raises(Conflict, match="another user"):
            saver.put_writes(stored | thread(name, user_id="cus_2", checkpoint_id="x"), [("c", 1)], "task")
    with TrunklineSaver(plane.base_url, plane.key, user="cus_2") as theirs:
        assert theirs.get_tuple(thread(name)) is None
        assert list(theirs.list(None)) == []
        theirs.delete_thread(name)
        theirs.copy_thread(name, f"{name} copy")
        assert theirs.get_tuple(thread(f"{name} copy")) is None
    with TrunklineSaver(plane.base_url, plane.key) as saver:
        found = saver.get_tuple(thread(name))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"x": "secret"}
        saver.copy_thread(name, f"{name} mine")
    with TrunklineSaver(plane.base_url, plane.key, user="cus_2") as theirs:
        assert theirs.get_tuple(thread(f"{name} mine")) is None, "the copy is the same user's"


def test_another_tenants_thread_is_not_there(plane: ControlPlane, saver: TrunklineSaver) -> None:
    config = thread()
    put(saver, config, x="secret")
    with TrunklineSaver(plane.base_url, plane.another_tenant("saver")) as theirs:
        assert theirs.get_tuple(config) is None
        assert list(theirs.list(config)) == list(theirs.list(None)) == []
        theirs.delete_thread(config["configurable"]["thread_id"])
        put(theirs, config, x="theirs")
    found = saver.get_tuple(config)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"x": "secret"}
    with (
        TrunklineSaver(plane.base_url, "sk-tl-" + "A" * 43) as nobody,
        pytest.raises(Unauthenticated),
    ):
        nobody.get_tuple(config)


def test_a_thread_goes_with_its_session_and_is_found_gone(plane: ControlPlane) -> None:
    with plane.http() as http:
        agent = http.post("/v1/agents", json={"name": f"a{uuid4().hex}", "model": "m"}).json()["id"]
        session = http.post("/v1/sessions", json={"agent": agent}).json()["id"]
        config = thread()
        with TrunklineSaver(plane.base_url, plane.key, session=session) as saver:
            put(saver, config, x=1)
            assert http.delete(f"/v1/sessions/{session}").status_code == 200
            assert saver.get_tuple(config) is None
            with pytest.raises(NotFound, match="session"):
                put(saver, config)
        with TrunklineSaver(plane.base_url, plane.key) as saver:
            put(saver, config, x=2)
            found = http.get("/v1/threads", params={"name": config["configurable"]["thread_id"]}).json()["data"]
            assert http.delete(f"/v1/threads/{found[0]['id']}").status_code == 200
            stored = put(saver, config, x=3)  # deleted behind its back, the thread is made anew
            assert [one.config for one in saver.list(config)] == [stored]


def test_pruning_keeps_what_a_channel_of_changes_is_rebuilt_from(saver: TrunklineSaver) -> None:
    config = thread()
    version = saver.get_next_version(None, None)
    parent: RunnableConfig = config
    for step, held in enumerate([{}, {"log": "snapshot"}, {}, {}]):
        checkpoint = empty_checkpoint()
        version = saver.get_next_version(version, None)
        checkpoint["channel_values"] = dict(held)
        checkpoint["channel_versions"] = {"log": version}
        counters = {} if held else {"counters_since_delta_snapshot": {"log": [1, 1]}}
        parent = saver.put(parent, checkpoint, {"source": "loop", "step": step, **counters}, {"log": version})  # type: ignore[typeddict-item]
        saver.put_writes(parent, [("log", step)], "task")
    history = saver.get_delta_channel_history(config=parent, channels=["log"])
    saver.prune([config["configurable"]["thread_id"]])
    assert [found.metadata["step"] for found in saver.list(config)] == [3, 2, 1]
    assert saver.get_delta_channel_history(config=parent, channels=["log"]) == history
    assert history["log"]["seed"] == "snapshot"
    with pytest.raises(ValueError, match="keep_latest"):
        saver.prune(["x"], strategy="oldest")


def test_writes_are_given_back_in_the_order_of_their_tasks(saver: TrunklineSaver) -> None:
    stored = put(saver, thread())
    saver.put_writes(stored, [("c", "b0"), ("c", "b1")], "1", "~b")
    saver.put_writes(stored, [("c", "a0")], "2", "~a")
    saver.put_writes(stored, [("__error__", "first")], "3")
    saver.put_writes(stored, [("__error__", "second")], "3")
    found = saver.get_tuple(stored)
    assert found is not None
    assert [value for _, _, value in found.pending_writes or []] == ["second", "a0", "b0", "b1"]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("a\0b", {}),
        ("\ud800", {}),
        ("x" * 1025, {}),
        ("", {}),
        ("ok", {"checkpoint_ns": "a\0b"}),
        ("ok", {"checkpoint_ns": "é" * 600}),
    ],
)
def test_bad_names_are_refused(saver: TrunklineSaver, name: str, more: dict[str, Any]) -> None:
    with pytest.raises((TrunklineError, ValueError)):
        put(saver, thread(name, **more))


def test_any_bytes_are_kept_in_channels(saver: TrunklineSaver) -> None:
    held = {"text": "a\0b \u2028", "bytes": bytes(range(256)), "set": {1, 2}, "none": None, "é/%2f": "slash"}
    stored = put(saver, thread("any / thread?&%2e%2e"), **held)
    found = saver.get_tuple(stored)
    assert found is not None
    assert found.checkpoint["channel_values"] == held
    with pytest.raises(InvalidRequest, match="NUL"):
        put(saver, thread(), **{"a\0b": 1})


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        ("checkpoints", {"id": "1", "payload": {"kind": "x", "data": "%%%"}}, "base64"),
        ("checkpoints", {"id": "", "payload": {"kind": "x", "data": ""}}, "id"),
        ("checkpoints", {"id": "1", "payload": {"kind": "x", "data": ""}, "channels": {"a": "v" * 200}}, "128"),
        ("checkpoints/1/writes", {"task_id": "t", "writes": []}, "writes"),
        ("items", {"items": [1]}, "items"),
    ],
)
def test_bad_bodies_are_told_where(plane: ControlPlane, path: str, body: Any, fault: str) -> None:
    with plane.http() as http:
        made = http.post("/v1/threads", json={"framework": "langgraph", "name": "bodies"}).json()["id"]
        answer = http.post(f"/v1/threads/{made}/{path}", json=body)
        assert answer.status_code == 400
        assert fault in answer.json()["error"]["message"]
        for query in ("page=page_bm90", "page=x", "metadata=[1]", "metadata={", "namespace=%00"):
            assert http.get(f"/v1/threads/{made}/checkpoints?{query}").status_code == 400, query
        raw = http.post(
            f"/v1/threads/{made}/items",
            content=b'{"items":[{"a":"\xff"}]}',
            headers={"content-type": "application/json"},
        )
        assert raw.status_code == 400
        assert "UTF-8" in raw.json()["error"]["message"]
