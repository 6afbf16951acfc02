"""What `trunkline.yaml` says of answers and bodies that are kept: the response cache, and what is stored of calls."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CachedRoute = Literal[
    "openai_chat",
    "anthropic_messages",
    "openai_responses",
    "gemini",
    "embeddings",
    "completions",
    "images",
    "audio",
    "moderations",
]
"""Routes whose answers may be kept, as `/v1/usage` names them in `wire`."""


class Cache(BaseModel):
    """The response cache: the same request, byte for byte and with the same memory, has the same answer for a while."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    store: Literal["memory", "postgres"]
    """`memory`: each gateway has its own; `postgres`: all gateways share one."""
    ttl_seconds: Annotated[int, Field(gt=0, le=31_536_000)] = 3600
    """A request may ask for less with the header `x-trunkline-cache-ttl`."""
    max_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    """With `store: memory`, how much is kept in all; what is asked for again stays longest."""
    namespace: Literal["key", "team", "tenant"] = "key"
    """Who shares answers. Never across tenants; a key without a team is alone under `team`."""
    routes: tuple[CachedRoute, ...] = (
        "openai_chat",
        "anthropic_messages",
        "openai_responses",
        "gemini",
        "embeddings",
        "completions",
        "moderations",
    )
    models: tuple[str, ...] | None = None
    """Names, or patterns with one `*`; without it, all models."""

    def entry(self) -> dict[str, Any]:
        """Return it as the gateway reads it."""
        return self.model_dump(mode="json", exclude_none=True)


class Record(BaseModel):
    """What is stored of calls beside their usage."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bodies: Literal["none", "errors", "asked", "all"] = "none"
    """Of which calls the request and the response are stored: of none, whatever a client asks for; of those whose
    client saw an error or went away; of those that come with the header `x-trunkline-store: true`; of all. With
    `x-trunkline-store: false` none of a call is stored. Unless it is `none`, a key may say that all of its calls are
    stored, or none (`store_bodies` of /v1/keys)."""
    max_bytes: Annotated[int, Field(gt=0, le=16 * 1024 * 1024)] = 64 * 1024
    """Of each of the two; what is longer is cut and marked so."""
    redact: tuple[str, ...] = ()
    """Regular expressions (RE2's syntax, as Rust's `regex` has it). What they find is replaced before anything is
    stored; keys of Trunkline and of the providers are in any case."""
    keep_days: Annotated[int, Field(gt=0, le=3650)] = 30

    def entry(self) -> dict[str, Any]:
        """Return it as the gateway reads it."""
        return self.model_dump(mode="json")
