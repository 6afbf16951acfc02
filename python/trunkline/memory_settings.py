"""What makes vectors of passages and queries, and what puts the passages that were found in a better order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

LOCAL_PROVIDER = "trunkline-embedder"
"""The provider under which the gateway knows an embedder that the control plane runs."""

Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Local(_Frozen):
    """Where a model of one's own is loaded from; nothing is downloaded."""

    path: Path | None = None
    """A folder that holds it."""
    package: Annotated[str | None, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")] = None
    """An installed Python package that ships it."""

    def _places(self) -> dict[str, object]:
        return {"path": self.path, "package": self.package}

    def _source(self) -> str | None:
        given = [value for value in self._places().values() if value is not None]
        if len(given) > 1:
            *most, last = (f"`{name}`" for name in self._places())
            raise ValueError(f"give one of {', '.join(most)} and {last}")
        return str(given[0]) if given else None


class Embedder(_Local):
    """What makes vectors. Without one, passages are found by their words alone."""

    kind: Literal["gateway", "sentence_transformers", "model2vec"] = "gateway"
    """`gateway`: a model that the gateway serves over `/v1/embeddings`; else one that the control plane runs."""
    hub: Name | None = None
    """Its name on the Hugging Face hub: it is downloaded when it is first needed."""
    model: Name | None = None
    """The model's name: with `gateway` as clients ask for it; else what its vectors are recorded under, by default the
    last part of its place."""
    dimension: Annotated[int | None, Field(ge=1, le=4000)] = None
    """Numbers in a vector. Vectors of another length are refused; without it, a store's first vector decides."""
    query_timeout_ms: Annotated[int, Field(gt=0, le=60_000)] = 150
    """How long a query's vector may take before the search goes by words alone."""
    batch: Annotated[int, Field(ge=1, le=2048)] = 64
    """Passages in one request of the background."""
    api_key: SecretStr | None = None
    """With a local embedder, what gateways that run apart show to the control plane; `trunkline up` makes one."""

    def _places(self) -> dict[str, object]:
        return {**super()._places(), "hub": self.hub}

    @model_validator(mode="after")
    def _complete(self) -> Embedder:
        source = self._source()
        if self.kind == "gateway":
            if source is not None or self.api_key is not None:
                raise ValueError("`path`, `package`, `hub` and `api_key` are for embedders that run here; set `kind`")
            if self.model is None:
                raise ValueError("`model` is missing: the name of a model that the gateway serves")
        elif source is None:
            raise ValueError(f"a {self.kind} embedder needs `path`, `package` or `hub`")
        return self

    @property
    def name(self) -> str:
        """What its vectors are recorded under."""
        return self.model or Path(self._source() or "").name

    @property
    def local(self) -> bool:
        """Whether the control plane runs it."""
        return self.kind != "gateway"


class Reranker(_Local):
    """What reads a query and each passage found together, and says how well they go together.

    It is asked by searches with `rerank` alone. Without one, such a search is refused.
    """

    kind: Literal["endpoint", "sentence_transformers"] = "endpoint"
    """`endpoint`: one that is asked over HTTP, in the form that Cohere and Jina have; else a cross-encoder that the
    control plane runs."""
    url: Annotated[str | None, Field(pattern=r"^https?://[^\s]+$")] = None
    """The endpoint, with its path: `https://api.jina.ai/v1/rerank`."""
    model: Name | None = None
    """The model's name, as the endpoint knows it."""
    api_key: SecretStr | None = None
    """What the endpoint is shown, as a bearer token; None: nothing."""
    candidates: Annotated[int, Field(ge=2, le=100)] = 30
    """How many of the passages found it is given; more where a search asks for more."""
    timeout_ms: Annotated[int, Field(gt=0, le=60_000)] = 1000
    """How long it may take before the search is answered in the order that it has without it."""

    @model_validator(mode="after")
    def _complete(self) -> Reranker:
        source = self._source()
        if self.kind == "endpoint":
            if source is not None:
                raise ValueError("`path` and `package` are for a reranker that runs here; set `kind`")
            if self.url is None or self.model is None:
                raise ValueError("an endpoint needs `url` and `model`")
        elif source is None:
            raise ValueError(f"a {self.kind} reranker needs `path` or `package`")
        elif self.url is not None or self.model is not None or self.api_key is not None:
            raise ValueError("`url`, `model` and `api_key` are for a reranker over HTTP")
        return self


class Memory(_Frozen):
    """The key `memory` of trunkline.yaml."""

    embedder: Embedder | None = None
    reranker: Reranker | None = None


def gateway_entries(embedder: Embedder | None, control_url: str, api_key: str | None) -> dict[str, Any]:
    """Return what an embedder adds to the gateway's configuration; a local one is one more provider and model."""
    if embedder is None:
        return {"embedder": None, "providers": [], "models": []}
    entries: dict[str, Any] = {
        "embedder": {"model": embedder.name, "query_timeout_ms": embedder.query_timeout_ms},
        "providers": [],
        "models": [],
    }
    if embedder.local:
        entries["providers"] = [
            {
                "name": LOCAL_PROVIDER,
                "wire": "openai_chat",
                "base_url": f"{control_url.rstrip('/')}/internal/v1",
                "api_key": api_key,
            }
        ]
        upstream = {"provider": LOCAL_PROVIDER, "model": embedder.name}
        entries["models"] = [{"name": embedder.name, "upstreams": [upstream]}]
    return entries
