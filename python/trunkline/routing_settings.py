"""How calls are spread over upstreams, repeated and sent elsewhere.

What each key does is said in `crates/gateway/src/config/routing.rs`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

Strategy = Literal["shuffle", "least_busy", "lowest_latency", "lowest_cost", "order"]
Count = Annotated[int, Field(ge=0)]
Millis = Annotated[int, Field(gt=0)]


Wire = Literal["openai_chat", "anthropic_messages", "openai_responses", "gemini", "bedrock_converse"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Upstream(_Frozen):
    """One place that serves a model: a provider, the model's name there, and what it has of its own."""

    provider: str
    model: str
    wires: tuple[Wire, ...] | None = None
    """The wires that the model is served in, where they are not all of its provider's."""
    api_key: SecretStr | None = None
    """Instead of the provider's."""
    base_url: Annotated[str | None, Field(pattern=r"^https?://[^\s]+$")] = None
    headers: dict[str, SecretStr] = {}
    body: dict[str, Any] = {}
    """Members of the request, in the provider's wire, for what the client leaves out: `temperature: 0.2`."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    order: Count | None = None
    """Those with the least go first; those without come last."""
    first_byte_ms: Millis | None = None
    stream_first_byte_ms: Millis | None = None

    def entry(self) -> dict[str, Any]:
        """Return it as the gateway reads it; what is not set is left out."""
        entry = self.model_dump(exclude_defaults=True)
        if self.wires is not None:
            entry["wires"] = list(self.wires)
        if self.api_key is not None:
            key = self.api_key.get_secret_value()
            entry["api_key"] = key
        if self.headers:
            entry["headers"] = {name: value.get_secret_value() for name, value in self.headers.items()}
        return entry


def one_or_more(value: object) -> object:
    """Take one for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


Upstreams = Annotated[tuple[Upstream, ...], BeforeValidator(one_or_more), Field(min_length=1)]


class RetryPolicy(_Frozen):
    """Attempts that may follow the first within one model, by what went wrong."""

    rate_limit: Count | None = None
    timeout: Count | None = None
    server: Count | None = None
    connect: Count | None = None
    content_policy: Count | None = None
    auth: Count | None = None
    bad_request: Count | None = None


class Alias(_Frozen):
    """Another name for a model."""

    model: str
    hidden: bool = False


def _named(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


class Routing(_Frozen):
    """How calls are spread over a model's upstreams, repeated and sent elsewhere."""

    listed_only: bool = False
    """Serve nothing but what is under `models`: no PROVIDER/MODEL, no patterns of providers."""
    strategy: Strategy = "shuffle"
    affinity: bool = True
    """Calls of one conversation go where its prompt is cached."""
    retries: Count | None = None
    retry_policy: RetryPolicy = RetryPolicy()
    model_retry_policies: dict[str, RetryPolicy] = {}
    min_pause_ms: Count = 0
    allowed_fails: Count = 0
    cooldown_ms: Count = 5_000
    aliases: dict[str, Annotated[Alias, BeforeValidator(_named)]] = {}
    fallbacks: dict[str, tuple[str, ...]] = {}
    context_window_fallbacks: dict[str, tuple[str, ...]] = {}
    content_policy_fallbacks: dict[str, tuple[str, ...]] = {}
    default_fallbacks: tuple[str, ...] = ()

    def entry(self) -> dict[str, Any]:
        """Return it as the gateway reads it; what is not set is left out."""
        return self.model_dump(mode="json", exclude_defaults=True)
