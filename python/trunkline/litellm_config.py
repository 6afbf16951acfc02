"""LiteLLM's `config.yaml`, read as it is: in the words of `trunkline.yaml`, and what becomes of each key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trunkline.config_file import read_mapping, resolve
from trunkline.errors import SetupError
from trunkline.litellm_keys import (
    ANTHROPIC_BODY,
    BODY,
    MODEL_INFO,
    PARAMS,
    PRICES,
    SECTIONS,
    TOP,
    UNKNOWN,
    USED,
    Finding,
    Use,
)

_PREFIXES = {
    "azure_ai": None,
    "vertex_ai": None,
    "sagemaker": None,
    "watsonx": None,
    "replicate": None,
    "text-completion-openai": "openai",
    "openai_like": "openai",
    "custom_openai": "openai",
    "litellm_proxy": "openai",
    "cohere_chat": "cohere",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "nvidia_nim": "nvidia",
    "hosted_vllm": "vllm",
    "ollama_chat": "ollama",
    "llamafile": "llama_cpp",
    "friendliai": "friendli",
    "github_models": "github",
    "meta_llama": "llama",
    "vercel_ai_gateway": "vercel",
    "wandb": "wandb",
}
"""LiteLLM's names of providers that are not ours, and ours; None for those that Trunkline cannot call."""
_BEGINNINGS = {
    **dict.fromkeys(("gpt-", "chatgpt-", "o1", "o3", "o4", "ft:", "text-embedding-"), "openai"),
    "claude": "anthropic",
    "command": "cohere",
}
"""Where LiteLLM sends model names without a prefix."""
_STRATEGIES = {
    "simple-shuffle": "shuffle",
    "least-busy": "least_busy",
    "latency-based-routing": "lowest_latency",
    "cost-based-routing": "lowest_cost",
    "usage-based-routing": None,
    "usage-based-routing-v2": None,
}
_RETRIES = {
    "RateLimitErrorRetries": "rate_limit",
    "TimeoutErrorRetries": "timeout",
    "InternalServerErrorRetries": "server",
    "ContentPolicyViolationErrorRetries": "content_policy",
    "AuthenticationErrorRetries": "auth",
    "BadRequestErrorRetries": "bad_request",
}
_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


def is_litellm(content: Mapping[Any, Any]) -> bool:
    """Tell whether this is LiteLLM's kind of file."""
    return bool(content.keys() & {"model_list", *SECTIONS, "environment_variables", "include"})


class LitellmConfig:
    """A `config.yaml` with what it includes."""

    def __init__(self, path: Path, content: Mapping[Any, Any]) -> None:
        self.path = path
        self.files = [path]
        """All files that it is made of."""
        self._content: dict[Any, Any] = dict(content)
        self._include(self._content, path)
        for name in (*SECTIONS, "environment_variables"):
            if not isinstance(self._content.get(name) or {}, dict):
                raise SetupError(f"{path}: `{name}` must be a mapping.")
        if not isinstance(self._content.get("model_list") or [], list):
            raise SetupError(f"{path}: `model_list` must be a list.")
        for index, entry in enumerate(self._models()):
            if not isinstance(entry, dict) or not isinstance(entry.get("litellm_params"), dict):
                raise SetupError(f"{path}: `model_list[{index}]` must have `model_name` and `litellm_params`.")
            for key, where in (("model_name", entry), ("model", entry["litellm_params"])):
                if not isinstance(where.get(key), str):
                    raise SetupError(f"{path}: `model_list[{index}]` has no `{key}`.")

    def _include(self, content: Mapping[Any, Any], path: Path) -> None:
        """Take in included files: lists are joined, sections merged, other keys added where they are missing."""
        for name in content.get("include") or []:
            inner = path.parent / str(name)
            if inner.resolve() in [file.resolve() for file in self.files]:
                raise SetupError(f"{path}: `include` names {name}, which is included already.")
            self.files.append(inner)
            found = read_mapping(inner)
            self._include(found, inner)
            for key, value in found.items():
                if key == "include":
                    continue
                mine = self._content.get(key)
                if isinstance(mine, list) and isinstance(value, list):
                    self._content[key] = [*mine, *value]
                elif isinstance(mine, dict) and isinstance(value, dict):
                    self._content[key] = {**value, **mine}
                elif mine is None:
                    self._content[key] = value

    def _models(self) -> list[Any]:
        models: list[Any] = self._content.get("model_list") or []
        return models

    def findings(self) -> Iterator[Finding]:
        """Yield what becomes of each key, in the order of the file."""
        for key, value in self._content.items():
            if key == "model_list":
                for index, entry in enumerate(self._models()):
                    yield from self._model_findings(f"model_list[{index}]", entry)
            elif key in SECTIONS:
                for inner, detail in (value or {}).items():
                    use = SECTIONS[key].get(inner, UNKNOWN)
                    yield Finding(f"{key}.{inner}", *_special(inner, detail, use))
            else:
                yield Finding(str(key), *TOP.get(key, UNKNOWN))

    def _model_findings(self, at: str, entry: Mapping[Any, Any]) -> Iterator[Finding]:
        params = entry["litellm_params"]
        provider = _provider(params)[0]
        for key, value in entry.items():
            if key == "model_name":
                yield Finding(f"{at}.{key}", *USED)
            elif key == "model_info" and isinstance(value, dict):
                for inner in value:
                    use = MODEL_INFO.get(inner, Use("ignored", "it only describes the model"))
                    if inner == "mode" and _only_responses(entry):
                        use = USED
                    yield Finding(f"{at}.{key}.{inner}", *use)
            elif key != "litellm_params":
                yield Finding(f"{at}.{key}", *UNKNOWN)
        for key in params:
            use = PARAMS.get(key, UNKNOWN)
            if key == "model" and provider is None:
                use = Use("unsupported", "Trunkline cannot call this provider; the deployment is left out")
            elif key in BODY and provider == "anthropic" and key not in ANTHROPIC_BODY:
                use = Use("unsupported", "Anthropic's wire has no such parameter")
            yield Finding(f"{at}.litellm_params.{key}", *use)

    def translate(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """Return the settings in the words of `trunkline.yaml`. Raises SetupError that names a key that is wrong."""
        environ = self.environ(environ)
        router = self._section("router_settings", environ)
        litellm = self._section("litellm_settings", environ)
        general = self._section("general_settings", environ)
        # LiteLLM's own precedence: what the router is told, else what the library is.
        said = {**litellm, **router}

        models: dict[str, list[dict[str, Any]]] = {}
        providers: dict[str, dict[str, Any]] = {}
        deployments: dict[str, list[dict[str, Any]]] = {}
        prices: dict[tuple[str, str], dict[str, Any]] = {}
        listed_only = True
        for index, entry in enumerate(self._models()):
            provider, model = _provider(entry["litellm_params"])
            if model == "*" and provider == "*":
                listed_only = False
                continue
            if provider is None:
                continue
            used = {key: value for key, value in entry["litellm_params"].items() if key in PARAMS and value is not None}
            params = resolve(used, environ, self.path, f"model_list[{index}].litellm_params")
            params.setdefault("stream_timeout", said.get("stream_timeout"))
            upstream = _upstream(provider, model, params)
            if _only_responses(entry):
                upstream["wires"] = ["openai_responses"]
            upstream["provider"] = _named(providers, provider, _host(provider, params))
            deployments.setdefault(upstream["provider"], []).append(upstream)
            models.setdefault(entry["model_name"], []).append(upstream)
            if price := _price({**(entry.get("model_info") or {}), **params}):
                named = {"provider": upstream["provider"], "model": upstream["model"]}
                prices.setdefault((named["provider"], named["model"]), {**named, **price})
        for name, upstreams in deployments.items():
            # One that brings no key of its own takes the environment's, not another's.
            if all("api_key" in upstream for upstream in upstreams):
                providers[name]["api_key"] = upstreams[0]["api_key"]
            if providers[name].get("like", name) == "azure" and "base_url" in upstreams[0]:
                providers[name]["base_url"] = upstreams[0]["base_url"]
        for upstreams in models.values():
            _weigh(upstreams)
        if not models and listed_only:
            raise SetupError(f"{self.path}: `model_list` has no model that Trunkline can serve.")

        settings: dict[str, Any] = {
            "providers": providers,
            "models": models,
            "routing": {**self._routing(said), "listed_only": listed_only},
            "prices": list(prices.values()),
            "drop_params": bool(said.get("drop_params")),
        }
        limit = said.get("request_timeout", said.get("timeout"))
        if isinstance(limit, int | float) and limit > 0:
            settings["timeouts"] = {"first_byte_ms": _millis(limit), "total_ms": max(_millis(limit), 3_600_000)}
        if "max_request_size_mb" in general:
            largest = int(float(general["max_request_size_mb"]) * 1024 * 1024)
            settings["limits"] = {"max_body_bytes": largest, "max_bodies_bytes": max(largest, 512 * 1024 * 1024)}
        return settings

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment with `environment_variables`."""
        variables = self._content.get("environment_variables") or {}
        return {
            **environ,
            **{str(name): str(resolve(value, environ, self.path, str(name))) for name, value in variables.items()},
        }

    def _section(self, name: str, environ: Mapping[str, str]) -> dict[str, Any]:
        section = self._content.get(name) or {}
        used = {key: value for key, value in section.items() if SECTIONS[name].get(key, UNKNOWN).status == "used"}
        found: dict[str, Any] = resolve(used, environ, self.path, name)
        return found

    def _routing(self, said: Mapping[str, Any]) -> dict[str, Any]:
        routing: dict[str, Any] = {
            "strategy": _STRATEGIES.get(said.get("routing_strategy", "simple-shuffle")) or "shuffle"
        }
        if said.get("num_retries") is not None:
            routing["retries"] = said["num_retries"]
        if said.get("retry_policy"):
            routing["retry_policy"] = _retries(said["retry_policy"])
        if said.get("model_group_retry_policy"):
            routing["model_retry_policies"] = {
                model: _retries(policy) for model, policy in said["model_group_retry_policy"].items()
            }
        if said.get("retry_after"):
            routing["min_pause_ms"] = _millis(said["retry_after"])
        if said.get("allowed_fails") is not None:
            routing["allowed_fails"] = said["allowed_fails"]
        if said.get("cooldown_time") is not None:
            routing["cooldown_ms"] = _millis(said["cooldown_time"])
        if said.get("disable_cooldowns"):
            routing["cooldown_ms"] = 0
        if said.get("model_group_alias"):
            routing["aliases"] = said["model_group_alias"]
        for kind in _FALLBACKS:
            chains = _chains(said.get(kind) or [], f"{self.path}: `{kind}`")
            if kind == "fallbacks" and "*" in chains:
                routing["default_fallbacks"] = chains.pop("*")
            if chains:
                routing[kind] = chains
        if said.get("default_fallbacks"):
            routing["default_fallbacks"] = said["default_fallbacks"]
        return routing


def _special(key: str, value: Any, use: Use) -> Use:
    """Return what becomes of a key whose value decides it."""
    if key == "routing_strategy":
        if value not in _STRATEGIES:
            return Use("invalid", f"expected one of {', '.join(_STRATEGIES)}")
        if _STRATEGIES[value] is None:
            return Use(
                "unsupported", "tokens are not counted by deployment; shuffle by weight, rpm or tpm takes its place"
            )
    if key in ("retry_policy", "model_group_retry_policy") and isinstance(value, dict):
        policies = value.values() if key == "model_group_retry_policy" else [value]
        unknown = {name for policy in policies if isinstance(policy, dict) for name in policy} - _RETRIES.keys()
        if unknown:
            return Use("unsupported", f"unknown: {', '.join(sorted(map(str, unknown)))}")
    if key in ("drop_params", "cache", "store_model_in_db", "set_verbose") and not value:
        return Use("ignored", "it is off")
    return use


def _provider(params: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return our name of a deployment's provider, None if it cannot be called, and the model's name there."""
    model = str(params["model"])
    named = params.get("custom_llm_provider")
    prefix, slash, rest = model.partition("/")
    if model == "*":
        return "*", model
    if named:
        return _PREFIXES.get(named, named), rest if slash and prefix == named else model
    if slash:
        begins = {"bedrock": ("converse/", "invoke/"), "openai": ("responses/",), "azure": ("responses/",)}
        if rest.startswith(begins.get(prefix, ())):
            rest = rest.partition("/")[2]
        return _PREFIXES.get(prefix, prefix), rest
    return next((name for beginning, name in _BEGINNINGS.items() if model.startswith(beginning)), None), model


def _only_responses(entry: Mapping[str, Any]) -> bool:
    """Tell whether a deployment is marked as one that OpenAI's responses alone reach: by its name or its mode."""
    prefix, _, rest = str(entry["litellm_params"]["model"]).partition("/")
    return prefix in ("openai", "azure") and (
        rest.startswith("responses/") or (entry.get("model_info") or {}).get("mode") == "responses"
    )


def _host(provider: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a provider's hosts apart, beside URL and key, which each deployment has for itself."""
    keys = {
        "azure": {"api_version": "api_version"},
        "bedrock": {
            "aws_region_name": "region",
            "aws_access_key_id": "access_key_id",
            "aws_secret_access_key": "secret_access_key",
            "aws_session_token": "session_token",
        },
    }
    given = {ours: params.get(theirs) for theirs, ours in keys.get(provider, {}).items()}
    return {key: value for key, value in given.items() if value is not None}


def _price(params: Mapping[str, Any]) -> dict[str, float]:
    """Return a deployment's own price in US dollars a million tokens; empty where it sets none."""
    given = {
        ours: float(params[theirs]) * 1e6
        for ours, theirs in PRICES.items()
        if isinstance(params.get(theirs), int | float | str)
    }
    return {"input": 0.0, "output": 0.0, **given} if given.keys() & {"input", "output"} else {}


def _named(providers: dict[str, dict[str, Any]], provider: str, host: dict[str, Any]) -> str:
    """Return the name of this host among `providers`: the provider's, with a number where it has several hosts."""
    name, number = provider, 1
    while providers.setdefault(name, dict(host)) != host:
        number += 1
        name = f"{provider}-{number}"
        host["like"] = provider
    return name


def _base_url(provider: str, given: str) -> str:
    """Return a base URL as our providers have them: up to and including the version."""
    url = given.rstrip("/")
    if provider in ("anthropic", "ollama") and not url.endswith("/v1"):
        return f"{url}/v1"
    return url


def _upstream(provider: str, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    upstream: dict[str, Any] = {"provider": provider, "model": model}
    base = params.get("api_base") or params.get("base_url") or params.get("aws_bedrock_runtime_endpoint")
    if base:
        upstream["base_url"] = _base_url(provider, str(base))
    if params.get("api_key") and provider != "bedrock":
        upstream["api_key"] = str(params["api_key"])
    headers = {**(params.get("headers") or {}), **(params.get("extra_headers") or {})}
    if params.get("organization"):
        headers["openai-organization"] = params["organization"]
    if headers:
        upstream["headers"] = {str(name): str(value) for name, value in headers.items()}
    allowed = ANTHROPIC_BODY if provider == "anthropic" else BODY
    body = {name: params[name] for name in BODY if name in params and name in allowed}
    if provider == "anthropic" and "stop" in body:
        stop = body.pop("stop")
        body["stop_sequences"] = stop if isinstance(stop, list) else [stop]
    body.update(params.get("extra_body") or {})
    if body:
        upstream["body"] = body
    for key, ours in (("timeout", "first_byte_ms"), ("stream_timeout", "stream_first_byte_ms")):
        if params.get(key):
            upstream[ours] = _millis(params[key])
    for key in ("weight", "order", "rpm", "tpm"):
        if params.get(key) is not None:
            upstream[key] = params[key]
    return upstream


def _weigh(upstreams: Iterable[dict[str, Any]]) -> None:
    """Give deployments their weights as LiteLLM draws them: by weight where one has any, else by rpm, else by tpm."""
    upstreams = list(upstreams)
    measure = next((key for key in ("weight", "rpm", "tpm") if any(key in one for one in upstreams)), None)
    for one in upstreams:
        weight = one.get(measure, 0) if measure else 1
        for key in ("weight", "rpm", "tpm"):
            one.pop(key, None)
        if measure:
            one["weight"] = weight


def _retries(policy: Mapping[str, Any]) -> dict[str, int]:
    return {_RETRIES[name]: count for name, count in policy.items() if name in _RETRIES and count is not None}


def _chains(given: Any, where: str) -> dict[str, list[str]]:
    """Return `[{model: [fallback, …]}, …]` as one mapping. Raises SetupError for another form."""
    chains: dict[str, list[str]] = {}
    for entry in given:
        if not isinstance(entry, dict):
            raise SetupError(f"{where} must be a list of {{model: [fallback, …]}}.")
        for model, names in entry.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise SetupError(f"{where}: the fallbacks of {model!r} must be a list of models.")
            chains.setdefault(str(model), []).extend(names)
    return chains


def _millis(seconds: Any) -> int:
    return max(int(float(seconds) * 1000), 1)
