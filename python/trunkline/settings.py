"""What the user configured: `trunkline.yaml`, the environment, and the defaults where both are silent.

Read once, at the start of a command, and passed on as one frozen value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)

from trunkline.config_file import describe, read_mapping, resolve
from trunkline.errors import SetupError
from trunkline.kept_settings import Cache, Record
from trunkline.litellm_config import LitellmConfig, is_litellm
from trunkline.litellm_keys import Finding
from trunkline.memory_settings import Memory, gateway_entries
from trunkline.provider_settings import KnownProvider, Provider
from trunkline.routing_settings import Routing, Upstreams
from trunkline.tool_settings import ToolSettings
from trunkline.webhook_settings import WebhookSettings

DEFAULT_LISTEN = "127.0.0.1:4000"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Price(_Frozen):
    """What a model costs, in US dollars a million tokens; wins over the price that Trunkline knows."""

    provider: str
    model: str
    input: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    output: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cache_read: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Prompt tokens found in the provider's cache; without it, as `input`."""
    cache_write: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    reasoning: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Answer tokens spent on reasoning; without it, as `output`."""


class Limits(_Frozen):
    """Limits of the gateway."""

    max_body_bytes: Annotated[int, Field(gt=0)] = 32 * 1024 * 1024
    max_bodies_bytes: Annotated[int, Field(gt=0)] = 512 * 1024 * 1024
    """Request bodies that the gateway holds at one time, of all calls together; what finds no room is answered 503."""
    threads: Annotated[int, Field(gt=0, le=64)] | None = None
    """Serving threads of the gateway, each with four connections to Postgres for reading memory; by default one a core,
    four at most."""
    spool_max_bytes: Annotated[int, Field(gt=0)] = 256 * 1024 * 1024
    """Turns and usage kept on disk while Postgres is away."""
    output_tokens: Annotated[int, Field(gt=0)] = 4096
    """What a call is taken to be answered with at most where it does not say (`max_tokens`), in tokens: so much of a
    budget is reserved for it until its cost is known."""
    lease_seconds: Annotated[int, Field(gt=0, lt=86_400)] = 120
    """For how long Postgres lends budgets to a gateway without hearing from it: so long a gateway serves on from what
    it holds while Postgres is away, and so long the budget of a gateway that died stays out of the others' reach."""

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError("max_bodies_bytes must be at least max_body_bytes, or no body of that size is ever taken")
        return self


class Timeouts(_Frozen):
    """Time limits of one model call, in milliseconds."""

    connect_ms: Annotated[int, Field(gt=0)] = 5_000
    first_byte_ms: Annotated[int, Field(gt=0)] = 600_000
    first_token_ms: Annotated[int, Field(gt=0)] = 600_000
    """From the head of a stream to its first token: a model may reason in silence for minutes."""
    idle_ms: Annotated[int, Field(gt=0)] = 300_000
    """Between two pieces of an answer, once there is a token."""
    total_ms: Annotated[int, Field(gt=0)] = 3_600_000
    ping_ms: Annotated[int, Field(ge=0)] = 15_000
    """How long a client's stream may be silent before it gets a sign of life; 0: it gets none."""
    client_idle_ms: Annotated[int, Field(gt=0)] = 75_000
    """How long a client's connection may be idle, and how long a request's head and its body may each take to come."""


class Traces(_Frozen):
    """Where spans of model calls go: a collector that takes OTLP over HTTP.

    Without this, `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_SERVICE_NAME` say it.
    """

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    headers: dict[str, SecretStr] = {}
    service_name: str = "trunkline"
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of calls that are traced where the client does not decide it by `traceparent`."""
    content: bool = False
    """Whether a span of a chat call tells what was asked and answered (`gen_ai.input.messages`, …), but for files."""
    content_max_bytes: Annotated[int, Field(gt=0, le=1024 * 1024)] = 32 * 1024
    """How much of it, in bytes of text each way; of a longer conversation the newest messages are told."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Traces | None:
        """Read OpenTelemetry's own variables; None without an endpoint. Raises SetupError for one that is wrong."""
        endpoint = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        if not endpoint:
            return None
        headers: dict[str, SecretStr] = {}
        for pair in filter(None, environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",")):
            name, equals, value = pair.partition("=")
            if not equals:
                raise SetupError("OTEL_EXPORTER_OTLP_HEADERS is not of the form NAME=VALUE,NAME=VALUE.")
            headers[name.strip()] = SecretStr(unquote(value.strip()))
        service_name = environ.get("OTEL_SERVICE_NAME") or "trunkline"
        try:
            return cls(endpoint=endpoint, headers=headers, service_name=service_name)
        except ValidationError as error:
            raise SetupError(f"OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint!r}, which is no http(s) URL.") from error


class Audit(_Frozen):
    """The audit log."""

    keep_days: Annotated[int, Field(ge=1, le=36_500)] = 400
    """For how long entries are kept."""


def _listen_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        host = ""
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected IP:PORT, for example 127.0.0.1:4000")
    return value


class File(_Frozen):
    """The keys of `trunkline.yaml`."""

    listen: Annotated[str, AfterValidator(_listen_address)] = DEFAULT_LISTEN
    providers: dict[str, Provider] = {}
    models: dict[str, Upstreams] = {}
    routing: Routing = Routing()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    ca_file: Path | None = None
    """Certificates (PEM) of authorities that are trusted besides the public ones, such as a company's proxy has."""
    traces: Traces | None = None
    cache: Cache | None = None
    """The response cache; None: there is none."""
    record: Record | None = None
    """What is stored of calls beside their usage; None: nothing."""
    drop_params: bool = False
    """Whether parameters that a provider's wire has no words for are left out of requests, and named in the header
    `x-trunkline-dropped`; else such a request is refused with a 400 that names the first."""
    prices: tuple[Price, ...] = ()
    memory: Memory = Memory()
    tools: ToolSettings = ToolSettings()
    webhooks: WebhookSettings = WebhookSettings()
    audit: Audit = Audit()


class Settings(File):
    """All settings of one start. Secrets stay out of its repr."""

    home: Path
    """`TRUNKLINE_HOME`: keys, the spool and, unless `database_url` is set, the embedded Postgres."""
    database_url: SecretStr | None = None
    gateway_database_url: SecretStr | None = None
    control_database_url: SecretStr | None = None
    vault_key: SecretStr | None = None
    """`TRUNKLINE_VAULT_KEY`: what secrets in vaults are sealed with; None: `vault.key` in the home, made once."""
    source: Path | None = None
    """The configuration file that was read, if any."""

    _environ: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _files: tuple[Path, ...] = PrivateAttr(default=())
    _unsupported: tuple[Finding, ...] = PrivateAttr(default=())

    @classmethod
    def _make(
        cls, file: File, environ: Mapping[str, str], home: Path, source: Path | None, files: Sequence[Path] = ()
    ) -> Settings:
        def secret(name: str) -> SecretStr | None:
            return SecretStr(environ[name]) if environ.get(name) else None

        values = {name: getattr(file, name) for name in File.model_fields}
        values["traces"] = file.traces or Traces.from_environment(environ)
        if environ.get("TRUNKLINE_LISTEN"):
            try:
                values["listen"] = _listen_address(environ["TRUNKLINE_LISTEN"])
            except ValueError as error:
                raise SetupError(f"TRUNKLINE_LISTEN is {environ['TRUNKLINE_LISTEN']!r}: {error}.") from error
        settings = cls.model_construct(
            **values,
            home=home,
            database_url=secret("DATABASE_URL"),
            gateway_database_url=secret("TRUNKLINE_GATEWAY_DATABASE_URL"),
            control_database_url=secret("TRUNKLINE_CONTROL_DATABASE_URL"),
            vault_key=secret("TRUNKLINE_VAULT_KEY"),
            source=source,
        )
        settings._environ = dict(environ)
        settings._files = tuple(files) or ((source,) if source else ())
        return settings

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that these settings were read from."""
        return self._files

    @property
    def unsupported(self) -> tuple[Finding, ...]:
        """What a LiteLLM file asks for and Trunkline does not do."""
        return self._unsupported

    def gateway_config(
        self,
        database: str,
        control_url: str,
        known_providers: Sequence[KnownProvider],
        *,
        embedder_key: str | None = None,
    ) -> dict[str, Any]:
        """Return the gateway's configuration, keys included: it reads neither files nor the environment itself.

        A known provider whose key variable is set is available without a line of configuration; `providers:` adds to
        these and overrides them. The default model is the first one under `models:`; without any, the first available
        provider's own default, as `PROVIDER/MODEL`. A local embedder is one more provider: the control plane, which is
        shown `embedder_key`. Raises SetupError for a provider that is not complete.
        """
        providers = self._providers(known_providers)
        by_name = {entry["name"]: entry for entry in providers}
        models = []
        for name, upstreams in self.models.items():
            for upstream in upstreams:
                if upstream.provider not in by_name:
                    raise self._unavailable(name, upstream.provider, known_providers)
            models.append({"name": name, "upstreams": [upstream.entry() for upstream in upstreams]})
        known = {provider.name: provider for provider in known_providers}
        routes = []
        defaults = []
        for name in by_name if not self.routing.listed_only else ():
            own = self.providers.get(name)
            patterns = own.models if own is not None else None
            if patterns is None:
                patterns = known[name].models if name in known else ()
            routes += [{"pattern": pattern, "provider": name} for pattern in patterns]
            if name in known and known[name].default_model:
                defaults.append(f"{name}/{known[name].default_model}")
        embedder = gateway_entries(self.memory.embedder, control_url, self.embedder_key(embedder_key))
        return {
            "listen": self.listen,
            "control_url": control_url,
            "database": database,
            "spool_dir": str(self.home / "spool"),
            "spool_max_bytes": self.limits.spool_max_bytes,
            "max_body_bytes": self.limits.max_body_bytes,
            "max_bodies_bytes": self.limits.max_bodies_bytes,
            **({"threads": self.limits.threads} if self.limits.threads else {}),
            "providers": providers + embedder["providers"],
            "models": models + embedder["models"],
            "embedder": embedder["embedder"],
            "routes": routes,
            "default_model": next((name for name in self.models if "*" not in name), None)
            or next(iter(defaults), None),
            "routing": self.routing.entry(),
            "prices": [price.model_dump(exclude_none=True) for price in self.prices],
            "output_tokens": self.limits.output_tokens,
            "lease_ms": self.limits.lease_seconds * 1000,
            "timeouts": self.timeouts.model_dump(),
            "ca_file": self.ca_file and str(self.ca_file.expanduser().absolute()),
            "cache": self.cache and self.cache.entry(),
            "record": self.record and self.record.entry(),
            "traces": self.traces and _traces_entry(self.traces),
        }

    def embedder_key(self, made: str | None = None) -> str | None:
        """Return what gateways show to a control plane that runs the embedder; None where none does.

        `made` is what `trunkline up` made for its own. Raises SetupError where neither it nor the file has one.
        """
        embedder = self.memory.embedder
        if embedder is None or not embedder.local:
            return None
        if embedder.api_key is not None:
            return embedder.api_key.get_secret_value()
        if made is None:
            raise SetupError(
                f"{self._where()}: memory.embedder has no api_key. A gateway that runs apart from the control plane "
                "shows it there; give both the same, some long random text."
            )
        return made

    @property
    def reranker_key(self) -> str | None:
        """What a reranker over HTTP is shown, if anything."""
        reranker = self.memory.reranker
        return None if reranker is None or reranker.api_key is None else reranker.api_key.get_secret_value()

    def _providers(self, known_providers: Sequence[KnownProvider]) -> list[dict[str, Any]]:
        """Return the available providers: the file's in its order, then known ones with a key in the environment."""
        known = {provider.name: provider for provider in known_providers}
        available: list[dict[str, Any]] = []
        for name, own in self.providers.items():
            try:
                entry = own.entry(name, known.get(own.like or name), self._environ, drop_params=self.drop_params)
            except SetupError as error:
                raise SetupError(f"{self._where()}: {error}") from error
            available.append(entry)
        for provider in known_providers:
            if provider.name not in self.providers:
                found = provider.available(self._environ, drop_params=self.drop_params)
                available += [found] if found else []
        return available

    def _unavailable(self, model: str, provider: str, known_providers: Sequence[KnownProvider]) -> SetupError:
        variable = next((known.key_env for known in known_providers if known.name == provider), None)
        remedy = f"set {variable} or add it under `providers`" if variable else "add it under `providers`"
        return SetupError(
            f"{self._where()}: model {model!r} needs provider {provider!r}, which is not available; {remedy}."
        )

    def _where(self) -> str:
        return str(self.source or "settings")


def _traces_entry(traces: Traces) -> dict[str, Any]:
    headers = {name: value.get_secret_value() for name, value in traces.headers.items()}
    content = {"content_max_bytes": traces.content_max_bytes if traces.content else None}
    return {**traces.model_dump(exclude={"headers", "content", "content_max_bytes"}), "headers": headers, **content}


def load(config: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the settings: defaults, then the configuration file, then the environment.

    The file is `config` (`trunkline.yaml`, or LiteLLM's `config.yaml` as it is), else `./trunkline.yaml`, else
    `trunkline.yaml` in the home; none of the last two need exist.
    Raises SetupError that names the file and the key, or the variable that is missing.
    """
    home = Path(environ.get("TRUNKLINE_HOME") or Path.home() / ".trunkline").expanduser().absolute()
    source = config
    if source is None:
        source = next((path for path in (Path("trunkline.yaml"), home / "trunkline.yaml") if path.is_file()), None)
    if source is None:
        return Settings._make(File(), environ, home, None)
    file, litellm = _read(source, environ)
    if litellm is None:
        return Settings._make(file, environ, home, source)
    settings = Settings._make(file, litellm.environ(environ), home, source, litellm.files)
    settings._unsupported = tuple(found for found in litellm.findings() if found.status == "unsupported")
    return settings


def _read(path: Path, environ: Mapping[str, str]) -> tuple[File, LitellmConfig | None]:
    content = read_mapping(path)
    litellm = LitellmConfig(path, content) if is_litellm(content) else None
    resolved = litellm.translate(environ) if litellm else resolve(content, environ, path, "")
    try:
        return File.model_validate(resolved), litellm
    except ValidationError as error:
        raise SetupError(describe(path, error)) from error
