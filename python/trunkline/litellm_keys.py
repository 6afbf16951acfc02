"""The keys of LiteLLM's `config.yaml`, and what becomes of each: a status, and the reason or what to do instead.

`used` is acted on; `ignored` needs nothing to be done, since Trunkline does it anyway or it has no meaning here;
`unsupported` is asked for and not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Status = Literal["used", "ignored", "unsupported", "invalid"]


class Finding(NamedTuple):
    """What becomes of one key of a file."""

    key: str
    """Where it stands: `model_list[0].litellm_params.api_key`."""
    status: Status
    note: str = ""


class Use(NamedTuple):
    """What becomes of a key wherever it stands."""

    status: Status
    note: str = ""


USED = Use("used")
UNKNOWN = Use("unsupported", "Trunkline does not know this key; remove it, or tell us what it does for you")
_CALLBACKS = Use("unsupported", "send traces and metrics instead: `traces` in trunkline.yaml, GET /metrics")
_STORE = Use("ignored", "keys, budgets and usage are in Trunkline's own Postgres, DATABASE_URL")
_UI = Use("ignored", "there is no such user interface")
_DEFAULT = Use("ignored", "Trunkline does so anyway")

PRICES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
}
"""Our names of what a token costs, and theirs."""
_PRICES = {
    **dict.fromkeys(PRICES.values(), USED),
    **dict.fromkeys(
        ("input_cost_per_second", "output_cost_per_second"), Use("unsupported", "models cost what their tokens cost")
    ),
}

BODY = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "n",
    "user",
    "response_format",
    "reasoning_effort",
    "logit_bias",
    "thinking",
    "parallel_tool_calls",
    "service_tier",
    "verbosity",
)
"""Parameters of a request that a deployment may set for what the client leaves out."""
ANTHROPIC_BODY = ("temperature", "top_p", "top_k", "max_tokens", "thinking", "stop", "service_tier")
"""Those of them that Anthropic's wire has words for."""

PARAMS: Mapping[str, Use] = {
    **dict.fromkeys(
        (
            "model",
            "custom_llm_provider",
            "api_key",
            "api_base",
            "base_url",
            "api_version",
            "organization",
            "weight",
            "order",
            "timeout",
            "stream_timeout",
            "extra_headers",
            "headers",
            "extra_body",
            "aws_region_name",
            "aws_access_key_id",
            "aws_secret_access_key",
            "aws_session_token",
            *BODY,
        ),
        USED,
    ),
    "rpm": Use("used", "as the deployment's weight, where it has none; no limit is kept"),
    "tpm": Use("used", "as the deployment's weight, where it has neither weight nor rpm; no limit is kept"),
    "max_retries": Use("ignored", "router_settings.num_retries counts all attempts"),
    "num_retries": Use("unsupported", "set router_settings.num_retries or model_group_retry_policy"),
    "max_parallel_requests": Use("unsupported", "limit parallel requests on keys, teams or users"),
    "cooldown_time": Use("unsupported", "set router_settings.cooldown_time"),
    "mock_response": Use("unsupported", "point api_base at `trunkline model-server`"),
    "tags": Use("unsupported", "tag-based routing is not there; give each tag a model name of its own"),
    "use_in_pass_through": _DEFAULT,
    "merge_reasoning_content_in_choices": Use("unsupported", "reasoning stays where the provider puts it"),
    "additional_drop_params": Use("unsupported", "leave the parameters out in the client"),
    "allowed_openai_params": Use("ignored", "parameters pass untouched between equal wires"),
    "litellm_credential_name": Use("unsupported", "write the credentials into litellm_params"),
    "cache_control_injection_points": Use("unsupported", "set cache_control in the client"),
    "configurable_clientside_auth_params": Use("unsupported", "clients never choose where calls go"),
    "aws_session_name": Use("unsupported", "give it access keys or AWS_BEARER_TOKEN_BEDROCK"),
    "aws_role_name": Use("unsupported", "give it access keys or AWS_BEARER_TOKEN_BEDROCK"),
    "aws_profile_name": Use("unsupported", "give it access keys or AWS_BEARER_TOKEN_BEDROCK"),
    "aws_bedrock_runtime_endpoint": Use("used", "as its base URL"),
    "vertex_project": Use("unsupported", "use gemini/ with GEMINI_API_KEY"),
    "vertex_location": Use("unsupported", "use gemini/ with GEMINI_API_KEY"),
    "vertex_credentials": Use("unsupported", "use gemini/ with GEMINI_API_KEY"),
    "ssl_verify": Use("unsupported", "certificates are always checked against the public roots"),
    "metadata": Use("ignored", "it is for LiteLLM's callbacks"),
    **_PRICES,
}
MODEL_INFO: Mapping[str, Use] = {
    "id": Use("ignored", "usage is told by provider and model"),
    "base_model": Use("ignored", "prices are found by the provider's name for the model"),
    "mode": Use("ignored", "the route that is asked decides"),
    "access_groups": Use("unsupported", "list the models on the key"),
    **_PRICES,
}
"""Whatever else stands there only describes the model."""

ROUTER: Mapping[str, Use] = {
    **dict.fromkeys(
        (
            "routing_strategy",
            "num_retries",
            "retry_policy",
            "model_group_retry_policy",
            "model_group_alias",
            "allowed_fails",
            "cooldown_time",
            "disable_cooldowns",
            "retry_after",
            "timeout",
            "stream_timeout",
            "fallbacks",
            "default_fallbacks",
            "context_window_fallbacks",
            "content_policy_fallbacks",
        ),
        USED,
    ),
    "max_fallbacks": Use("ignored", "each model is tried once, however they refer to each other"),
    "routing_strategy_args": Use("unsupported", "within 25 % of the best, a conversation stays where it was"),
    "allowed_fails_policy": Use("unsupported", "set allowed_fails; 429 and refused keys cool down at once"),
    "enable_pre_call_checks": Use("unsupported", "use context_window_fallbacks"),
    "enable_tag_filtering": Use("unsupported", "give each tag a model name of its own"),
    "optional_pre_call_checks": Use("ignored", "a conversation stays where its prompt is cached"),
    "set_verbose": Use("ignored", "logs are in TRUNKLINE_HOME/logs"),
    "debug_level": Use("ignored", "logs are in TRUNKLINE_HOME/logs"),
    "client_ttl": Use("ignored", "connections are kept for as long as they are good"),
    "default_max_parallel_requests": Use("unsupported", "limit parallel requests on keys, teams or users"),
    "default_litellm_params": Use("unsupported", "write the parameters into each litellm_params"),
    "cache_responses": Use("unsupported", "the response cache is set in trunkline.yaml"),
    "redis_host": Use("ignored", "gateways share limits through Postgres; each keeps its own cooldowns"),
    "redis_port": Use("ignored", "gateways share limits through Postgres"),
    "redis_password": Use("ignored", "gateways share limits through Postgres"),
    "redis_url": Use("ignored", "gateways share limits through Postgres"),
    "provider_budget_config": Use("unsupported", "set budgets on keys, teams or users"),
}

LITELLM: Mapping[str, Use] = {
    **dict.fromkeys(
        (
            "num_retries",
            "request_timeout",
            "fallbacks",
            "default_fallbacks",
            "context_window_fallbacks",
            "content_policy_fallbacks",
            "allowed_fails",
            "cooldown_time",
        ),
        USED,
    ),
    "drop_params": USED,
    "modify_params": Use("unsupported", "requests are changed only where a wire asks for it"),
    "callbacks": _CALLBACKS,
    "success_callback": _CALLBACKS,
    "failure_callback": _CALLBACKS,
    "service_callback": _CALLBACKS,
    "audit_log_callbacks": _CALLBACKS,
    "set_verbose": Use("ignored", "logs are in TRUNKLINE_HOME/logs"),
    "json_logs": _DEFAULT,
    "turn_off_message_logging": Use("ignored", "the gateway logs no messages"),
    "redact_user_api_key_info": Use("ignored", "the gateway logs no keys"),
    "telemetry": Use("ignored", "Trunkline sends none"),
    "cache": Use("unsupported", "the response cache is set in trunkline.yaml"),
    "cache_params": Use("unsupported", "the response cache is set in trunkline.yaml"),
    "guardrails": Use("unsupported", "put them in front of the gateway or into the client"),
    "max_budget": Use("unsupported", "set budgets on keys, teams or users"),
    "budget_duration": Use("unsupported", "set budgets on keys, teams or users"),
    "default_internal_user_params": Use("unsupported", "set limits on users"),
    "default_team_settings": Use("unsupported", "set limits on teams"),
    "ssl_verify": Use("unsupported", "certificates are always checked against the public roots"),
    "enable_preview_features": Use("ignored", "there are none"),
    "suppress_debug_info": _DEFAULT,
    "disable_add_prefix_to_prompt": _DEFAULT,
}

GENERAL: Mapping[str, Use] = {
    "master_key": Use(
        "unsupported", "the first key is in TRUNKLINE_HOME/admin.key; make others: trunkline keys create"
    ),
    "salt_key": Use("ignored", "provider keys are not kept in the database"),
    "database_url": Use("unsupported", "set DATABASE_URL in the environment"),
    "store_model_in_db": Use("unsupported", "models are in the file; it is read anew when it changes"),
    "alerting": Use("unsupported", "alert on GET /metrics"),
    "alerting_threshold": Use("unsupported", "alert on GET /metrics"),
    "pass_through_endpoints": Use("unsupported", "/openai/*, /anthropic/* and /gemini/* pass through; others do not"),
    "max_parallel_requests": Use("unsupported", "limit parallel requests on keys, teams or users"),
    "global_max_parallel_requests": Use("unsupported", "limit parallel requests on keys, teams or users"),
    "completion_model": Use("unsupported", "clients and agents name their model"),
    "custom_auth": Use("unsupported", "clients come with Trunkline's keys"),
    "enable_jwt_auth": Use("unsupported", "clients come with Trunkline's keys"),
    "max_request_size_mb": Use("used"),
    "max_response_size_mb": Use("ignored", "answers in one piece may have 64 MiB"),
    "disable_spend_logs": Use("unsupported", "usage is always recorded"),
    "infer_model_from_keys": Use("unsupported", "list the models in model_list"),
    "forward_client_headers_to_llm_api": Use("unsupported", "set extra_headers; a client's headers stay here"),
    "health_check_interval": Use("ignored", "upstreams are judged by the calls that go to them"),
    "background_health_checks": Use("ignored", "upstreams are judged by the calls that go to them"),
    "use_client_credentials_pass_through_routes": Use("unsupported", "clients come with Trunkline's keys"),
    "ui_access_mode": _UI,
    "database_connection_pool_limit": _STORE,
    "database_connection_timeout": _STORE,
    "allow_requests_on_db_unavailable": _DEFAULT,
    "proxy_batch_write_at": _STORE,
    "disable_error_logs": _STORE,
    "use_redis_transaction_buffer": _STORE,
    "proxy_budget_rescheduler_min_time": _STORE,
    "proxy_budget_rescheduler_max_time": _STORE,
}

TOP: Mapping[str, Use] = {
    "environment_variables": USED,
    "include": USED,
    "guardrails": Use("unsupported", "put them in front of the gateway or into the client"),
    "mcp_servers": Use("unsupported", "give clients the servers' own addresses"),
    "callback_settings": _CALLBACKS,
    "credential_list": Use("unsupported", "write the credentials into litellm_params"),
    "prompts": Use("unsupported", "an agent's instructions take their place"),
    "vector_store_registry": Use("unsupported", "memory takes its place"),
    "files_settings": Use("unsupported", "/openai/v1/files passes through to the provider `openai`"),
    "finetune_settings": Use("unsupported", "/openai/* passes through to the provider `openai`"),
}
SECTIONS: Mapping[str, Mapping[str, Use]] = {
    "router_settings": ROUTER,
    "litellm_settings": LITELLM,
    "general_settings": GENERAL,
}
