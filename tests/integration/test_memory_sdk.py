from __future__ import annotations

from typing import Literal

import pytest

from support.control_plane import ControlPlane
from support.memory import new_agent, ok
from trunkline import AsyncTrunkline, Block, Conflict, InvalidRequest, NotFound, Trunkline


class Visitor(Block, scope="user"):
    """Who comes."""

    name: str
    visits: int = 0
    size: Literal["S", "M"] | None = None


def test_the_sdk_reads_blocks_as_instances_of_their_class(plane: ControlPlane) -> None:
    memory = {"blocks": {"visitor": Visitor.definition().to_json()}}
    new_agent(plane, "typed", memory)
    with Trunkline(plane.base_url, plane.key) as client:
        blocks = client.memory("typed", user="cus_42")
        assert blocks[Visitor].name is None
        blocks.write(Visitor, {"op": "set", "field": "name", "value": "Ada"}, idempotency_key="k")
        again = blocks.write(Visitor, {"op": "increment", "field": "visits", "value": 2})
        visitor = blocks[Visitor]
        assert (visitor.name, visitor.visits, visitor.size) == ("Ada", 2, None)
        assert visitor.model_fields_set == {"name", "visits"}
        first = blocks.history(Visitor)[-1]
        assert blocks.read("visitor", as_of=first.created_at).value == {"name": "Ada"}
        assert blocks.restore(Visitor, 1).version == (again.version or 0) + 1
        with pytest.raises(InvalidRequest, match="must be integer"):
            blocks.write(Visitor, {"op": "set", "field": "visits", "value": "x"})
        with pytest.raises(Conflict):
            blocks.write(Visitor, {"op": "set", "field": "name", "value": "B", "expect_absent": True})
        assert client.memory(user="cus_42")[Visitor].name == "Ada", "the only agent there is"
        new_agent(plane, "another", memory)
        with pytest.raises(NotFound, match="several agents"):
            client.memory(user="cus_42")


async def test_the_sdk_does_so_asynchronously(plane: ControlPlane) -> None:
    new_agent(plane, "typed-async", {"blocks": {"visitor": Visitor.definition().to_json()}})
    async with AsyncTrunkline(plane.base_url, plane.key) as client:
        blocks = client.memory("typed-async", user="cus_42")
        await blocks.write(Visitor, {"op": "merge", "value": {"name": "Ada", "size": "M"}})
        visitor = await blocks.get(Visitor)
        assert (visitor.name, visitor.size) == ("Ada", "M")
        assert (await blocks.read(Visitor)).version == len(await blocks.history(Visitor)) == 1
        assert (await blocks.restore(Visitor, 1)).version == 1
        with pytest.raises(NotFound):
            await blocks.read("nothing")


async def test_what_one_user_said_is_searched_by_both(plane: ControlPlane) -> None:
    new_agent(plane, "searched", {"blocks": {"visitor": Visitor.definition().to_json()}})
    with Trunkline(plane.base_url, plane.key) as client:
        for user, text in (("cus_1", "My lamp arrived broken."), ("cus_2", "Another customer's lamp.")):
            blocks = client.memory("searched", user=user)
            assert blocks.search("lamp") == (), "nothing was kept yet"
            blocks.write(Visitor, {"op": "set", "field": "name", "value": "Ada"})
            with plane.http() as http:
                block = ok(http.get("/v1/agents/searched/memory/visitor", params={"user_id": user}))
                store = block["store_id"]
                ok(http.post(f"/v1/memory_stores/{store}/ingest", json={"turns": [{"text": text}, {"text": "Rain."}]}))
        blocks = client.memory("searched", user="cus_1")
        assert [passage.text for passage in blocks.search("lamps")] == ["My lamp arrived broken."]
        assert len(blocks.search("lamp rain", limit=1)) == 1
        assert blocks.search("lamp", roles=["agent"]) == ()
        with pytest.raises(InvalidRequest, match="names no session"):
            client.memory("searched").search("lamp")
        with pytest.raises(InvalidRequest, match="limit"):
            blocks.search("lamp", limit=0)
    async with AsyncTrunkline(plane.base_url, plane.key) as remote:
        found = await remote.memory("searched", user="cus_2").search("lamp")
        assert [passage.text for passage in found] == ["Another customer's lamp."]
