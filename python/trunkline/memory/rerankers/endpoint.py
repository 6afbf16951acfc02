"""A reranker over HTTP, in the form that Cohere and Jina gave it and that vLLM and llama.cpp serve too."""

from __future__ import annotations

import json
from collections.abc import Sequence

import httpx

from trunkline.memory.rerankers import RerankFailed, checked


class EndpointReranker:
    """Asks a URL. `http` has the key; how long it may take is up to who asks."""

    def __init__(self, http: httpx.AsyncClient, url: str, model: str) -> None:
        self._http = http
        self._url = url
        self._model = model

    async def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return how well each text answers the query. Raises RerankFailed."""
        body = {"model": self._model, "query": query, "documents": list(texts), "top_n": len(texts)}
        try:
            response = await self._http.post(self._url, json=body)
        except httpx.HTTPError as error:
            raise RerankFailed(f"The reranker did not answer: {type(error).__name__}.") from error
        if response.status_code != 200:
            # Not what it says: it may repeat the key, the query or a passage.
            raise RerankFailed(f"The reranker answered with status {response.status_code}.")
        return checked(_scores(response, len(texts)), len(texts))


def _scores(response: httpx.Response, count: int) -> list[float]:
    """Read the answer, in the order of the texts. Raises RerankFailed when it is none."""
    try:
        found = {
            int(result["index"]): float(result["relevance_score"]) for result in json.loads(response.content)["results"]
        }
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RerankFailed("The reranker's answer does not list results with index and relevance_score.") from error
    return [found[index] for index in range(count) if index in found]
