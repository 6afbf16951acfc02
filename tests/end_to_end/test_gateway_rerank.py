"""A reranker of trunkline.yaml, as clients of the gateway meet it."""

from __future__ import annotations

from typing import Any

from support.memory import ok
from support.postgres import copied_database, temporary_home
from support.reranker import rerank_server
from support.stack import eventually, serving
from trunkline.store.embedded import ConnectionInfo


def test_searches_are_reranked_and_prompts_are_not(
    postgres: ConnectionInfo, migrated_template: str, scripted_model: str
) -> None:
    with (
        rerank_server() as reranker,
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(
            database,
            scripted_model,
            home,
            more=f"memory: {{reranker: {{url: '{reranker.url}', model: by-count, api_key: their-key}}}}\n",
        ) as stack,
        stack.http() as http,
    ):
        agent = {"name": "helper", "model": "gpt", "memory": {"backends": ["postgres", "pgvector"]}}
        ok(http.post("/v1/agents", json=agent))
        body = {"query": "lamp", "user_id": "cus_42", "roles": ["user"]}
        path = "/v1/agents/helper/memory_search"

        def say(text: str) -> str:
            messages: Any = [{"role": "user", "content": text}]
            answer = stack.openai().chat.completions.with_raw_response.create(
                model="agent/helper", messages=messages, user="cus_42"
            )
            return str(answer.headers.get("x-trunkline-recall"))

        for text in ("the red lamp", "a green lamp came with its lampshade from Lisbon, as it should"):
            say(text)
        assert eventually(lambda: len(ok(http.post(path, json=body))["data"]) == 2)
        assert say("which lamp?") == "lexical"
        assert reranker.asked == [], "what stands in a prompt is in the order of the search"
        plain = ok(http.post(path, json=body))["data"]
        answer = http.post(path, json=body | {"rerank": True})
        assert answer.headers["x-trunkline-recall"] == "lexical; reranked"
        assert "lampshade" in ok(answer)["data"][0]["text"]
        assert "lampshade" not in plain[0]["text"]
        assert reranker.keys == ["Bearer their-key"]
        log = (home / "control.log").read_text() + (home / "gateway.log").read_text()
        assert "their-key" not in log
