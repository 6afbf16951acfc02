"""The providers of one start: those of the file, and those that are known and have a key in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from trunkline.errors import SetupError
from trunkline.routing_settings import Wire, one_or_more

Family = Literal["openai", "anthropic", "gemini", "azure", "bedrock"]
"""Hosts that are addressed alike; without one, a provider is addressed as its wire's inventor is."""
Quirk = Literal["max_tokens", "no_stream_options", "no_developer_role"]
"""Where a host departs from its wire; see `providers/quirks.rs`."""
Wires = Annotated[tuple[Wire, ...], BeforeValidator(one_or_more), Field(min_length=1)]


def _wire_alone(given: Any) -> Any:
    """Take `wire`, which names one, for `wires`."""
    if isinstance(given, dict) and "wire" in given and "wires" not in given:
        given = {("wires" if key == "wire" else key): value for key, value in given.items()}
    return given


class KnownProvider(BaseModel):
    """A host that Trunkline knows without configuration; an entry of `trunkline._core.known_providers()`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    wires: Wires
    """What it speaks: a client of one of these is not translated, the first is spoken for all others."""
    family: Family | None = None
    base_url: str
    """`{NAME}` in it stands for an environment variable."""
    base_urls: dict[Wire, str] = {}
    """Where single wires are, if not there."""
    key_env: str | None = None
    """The environment variable that holds the provider's key; None for a host that asks for none."""
    models: tuple[str, ...] = ()
    """Patterns of the model names that go to this provider: `gpt-*`."""
    default_model: str | None = None
    """What an agent that names no model runs on, if no model is configured."""
    quirks: tuple[Quirk, ...] = ()

    _one = model_validator(mode="before")(_wire_alone)

    def available(self, environ: Mapping[str, str], *, drop_params: bool) -> dict[str, Any] | None:
        """Return the gateway's entry for it where its key and URL are in the environment."""
        key = environ.get(self.key_env) if self.key_env else None
        base_url, missing = _filled(self.base_url, environ)
        if not key or missing:
            return None
        more = {"api_key": key, "drop_params": drop_params or None, "reach": _reach(self.base_url)}
        return _entry(self.name, self, base_url, self.base_urls, more)


class Provider(BaseModel):
    """A provider under `providers:`; what it leaves out comes from the known provider of the same name."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    like: str | None = None
    """The known provider that it takes the rest from, where that is not the one of its own name."""
    wires: Wires | None = None
    """What it speaks, in the order in which it is preferred for clients of other wires; `wire` for one."""
    family: Family | None = None
    base_url: Annotated[str | None, Field(pattern=r"^https?://[^\s]+$")] = None
    base_urls: dict[Wire, Annotated[str, Field(pattern=r"^https?://[^\s]+$")]] | None = None
    """Where single wires are, if not there."""
    api_key: SecretStr | None = None
    """`none` is for hosts that ask for no key."""
    models: tuple[str, ...] | None = None
    """Patterns of the model names that go to this provider without its prefix: `llama-*`."""
    api_version: str | None = None
    """Azure's dated API version; with it the deployment stands in the path, without it the v1 API is used."""
    region: Annotated[str | None, Field(pattern=r"^[a-z0-9-]+$")] = None
    """The AWS region; without it AWS_REGION or AWS_DEFAULT_REGION."""
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    """What requests to Bedrock are signed with, where there is no bearer token in `api_key`."""
    quirks: tuple[Quirk, ...] | None = None
    drop_params: bool | None = None
    """Instead of the file's `drop_params`, for this provider."""

    _one = model_validator(mode="before")(_wire_alone)

    def entry(
        self, name: str, template: KnownProvider | None, environ: Mapping[str, str], *, drop_params: bool
    ) -> dict[str, Any]:
        """Return the gateway's entry for it. Raises SetupError that says what it lacks."""
        wires = self.wires or (template.wires if template else None)
        pattern = self.base_url or (template.base_url if template else None)
        if wires is None or pattern is None:
            raise SetupError(
                f"provider {name!r} is not one that Trunkline knows; give it `wires` "
                f"({' or '.join(get_args(Wire))}) and `base_url`."
            )
        base_urls = self._base_urls(template)
        if unspoken := base_urls.keys() - set(wires):
            raise SetupError(f"provider {name!r}: `base_urls` has {min(unspoken)}, which is not among its `wires`.")
        family = self.family or (template.family if template else None)
        environ = dict(environ)
        credentials: dict[str, Any] = {}
        if family == "bedrock" or (family is None and wires[0] == "bedrock_converse"):
            region = self.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
            if not region:
                raise SetupError(f"provider {name!r} has no region; give it `region` or set AWS_REGION.")
            environ["AWS_REGION"] = region
            credentials = self._aws(name, environ, region)
        else:
            for key in ("region", "access_key_id", "secret_access_key", "session_token"):
                if getattr(self, key) is not None:
                    raise SetupError(f"provider {name!r}: `{key}` is for Bedrock; set `family: bedrock`.")
            credentials["api_key"] = self._key(name, template, environ)
        if self.api_version is not None and family != "azure":
            raise SetupError(f"provider {name!r}: `api_version` is Azure's; set `family: azure`.")
        base_url, missing = (self.base_url, []) if self.base_url else _filled(pattern, environ)
        if missing:
            raise SetupError(f"provider {name!r} needs {' and '.join(missing)} set, or `base_url`.")
        quirks = self.quirks if self.quirks is not None else template.quirks if template else ()
        resolved = KnownProvider(name=name, wires=wires, family=family, base_url=pattern, quirks=quirks)
        drop = self.drop_params if self.drop_params is not None else drop_params
        reach = None if self.base_url or self.base_urls else _reach(pattern)
        more = credentials | {"api_version": self.api_version, "drop_params": drop or None, "reach": reach}
        return _entry(name, resolved, base_url, base_urls, more)

    def _base_urls(self, template: KnownProvider | None) -> Mapping[Wire, str]:
        """Return where single wires are: the known provider's only where this is that host, with all its wires."""
        if self.base_urls is not None or template is None or self.base_url:
            return self.base_urls or {}
        return {wire: url for wire, url in template.base_urls.items() if self.wires is None or wire in self.wires}

    def _key(self, name: str, template: KnownProvider | None, environ: Mapping[str, str]) -> str:
        key = self.api_key.get_secret_value() if self.api_key else None
        if key is None and template is not None:
            key = environ.get(template.key_env) if template.key_env else "none"
        if not key:
            variable = f" or set {template.key_env}" if template else ", or `api_key: none` if it asks for none"
            raise SetupError(f"provider {name!r} has no key; give it `api_key`{variable}.")
        return key

    def _aws(self, name: str, environ: Mapping[str, str], region: str) -> dict[str, Any]:
        """Return what requests to Bedrock show: the file's token or keys, else the environment's."""
        own_keys = {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key.get_secret_value() if self.secret_access_key else None,
            "session_token": self.session_token.get_secret_value() if self.session_token else None,
        }
        if any(own_keys.values()):
            if self.api_key is not None:
                raise SetupError(f"provider {name!r}: give it either `api_key` or access keys.")
            keys: dict[str, str | None] = own_keys
        elif self.api_key is not None or environ.get("AWS_BEARER_TOKEN_BEDROCK"):
            token = self.api_key.get_secret_value() if self.api_key else environ["AWS_BEARER_TOKEN_BEDROCK"]
            return {"api_key": token}
        else:
            keys = {key: environ.get(f"AWS_{key.upper()}") for key in own_keys}
        if not keys["access_key_id"] or not keys["secret_access_key"]:
            raise SetupError(
                f"provider {name!r} has no credentials; set AWS_BEARER_TOKEN_BEDROCK, or both "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give it `access_key_id` and `secret_access_key`."
            )
        return {"region": region, "aws": {key: value for key, value in keys.items() if value}}


def _entry(
    name: str, provider: KnownProvider, base_url: str, base_urls: Mapping[Wire, str], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a provider as the gateway reads it; what is not set is left out, but for the key."""
    entry: dict[str, Any] = {
        "name": name,
        "wires": list(provider.wires),
        "base_url": base_url.rstrip("/"),
        "api_key": None,
    }
    if base_urls:
        entry["base_urls"] = {wire: url.rstrip("/") for wire, url in base_urls.items()}
    if provider.family is not None:
        entry["family"] = provider.family
    if provider.quirks:
        entry["quirks"] = list(provider.quirks)
    entry.update({key: value for key, value in more.items() if value is not None})
    if entry["api_key"] == "none":
        entry["api_key"] = None
    return entry


_PLACEHOLDER = re.compile(r"\{([A-Z][A-Z0-9_]*)\}")


def _reach(known_url: str) -> str | None:
    """Return where a known provider's URL may lead: to public addresses only, unless the user names its host."""
    return "public" if known_url.startswith("https://") else None


def _filled(pattern: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return a known base URL with its variables filled in, and the names of those that are not set."""
    missing = [name for name in _PLACEHOLDER.findall(pattern) if not environ.get(name)]
    return _PLACEHOLDER.sub(lambda found: environ.get(found[1], ""), pattern), missing
