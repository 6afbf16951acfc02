"""LiteLLM's own files, as people have them, read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trunkline._core import check_config, known_providers
from trunkline.cli.app import run
from trunkline.config_check import check
from trunkline.errors import SetupError
from trunkline.provider_settings import KnownProvider
from trunkline.settings import load

KNOWN = [KnownProvider.model_validate(provider) for provider in json.loads(known_providers())]

SMALL_TEAM = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/team-gpt-4o
      api_base: https://team-eu.openai.azure.com/
      api_key: os.environ/AZURE_EU_KEY
      api_version: "2024-10-21"
      rpm: 600
      timeout: 40
      stream_timeout: 8.5
  - model_name: gpt-4o
    litellm_params:
      model: azure/team-gpt-4o
      api_base: https://team-us.openai.azure.com/
      api_key: os.environ/AZURE_US_KEY
      api_version: "2024-10-21"
      rpm: 200
  - model_name: gpt-4o
    litellm_params:
      model: gpt-4o-2024-08-06
      api_key: os.environ/OPENAI_API_KEY
      organization: org-team
  - model_name: sonnet
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_base: https://api.anthropic.com
      max_tokens: 4096
      stop: ["STOP"]
      extra_headers: {anthropic-beta: some-beta}
    model_info: {mode: chat, supports_vision: true, base_model: claude-sonnet-4-5}
router_settings:
  routing_strategy: latency-based-routing
  num_retries: 3
  retry_policy: {RateLimitErrorRetries: 4, TimeoutErrorRetries: 1, AuthenticationErrorRetries: 0}
  model_group_retry_policy: {sonnet: {InternalServerErrorRetries: 5}}
  allowed_fails: 2
  cooldown_time: 30
  retry_after: 1
  model_group_alias: {gpt-4: gpt-4o, old: {model: sonnet, hidden: true}}
litellm_settings:
  request_timeout: 120
  fallbacks: [{gpt-4o: [sonnet]}]
  context_window_fallbacks: [{gpt-4o: [sonnet]}]
  default_fallbacks: [sonnet]
"""

EVERYTHING_LOCAL = """
model_list:
  - model_name: local
    litellm_params: {model: ollama_chat/llama3, api_base: "http://gpu-1:11434", temperature: 0.1, seed: 7}
  - model_name: served
    litellm_params: {model: hosted_vllm/meta/llama, api_base: "http://gpu-2:8000/v1"}
  - model_name: "groq/*"
    litellm_params: {model: "groq/*", api_key: os.environ/GROQ_KEY}
environment_variables: {GROQ_KEY: gsk-inline}
"""

TWO_REGIONS = """
model_list:
  - model_name: nova
    litellm_params:
      model: bedrock/amazon.nova-pro-v1:0
      aws_region_name: us-east-1
      aws_access_key_id: A
      aws_secret_access_key: B
      weight: 3
  - model_name: nova
    litellm_params:
      model: bedrock/amazon.nova-pro-v1:0
      aws_region_name: eu-west-1
      aws_access_key_id: A
      aws_secret_access_key: B
      weight: 1
"""


def gateway(tmp_path: Path, text: str, **environ: str) -> dict[str, Any]:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    settings = load(path, {"TRUNKLINE_HOME": str(tmp_path), **environ})
    config = settings.gateway_config("", "http://127.0.0.1:1", KNOWN)
    check_config(json.dumps(config))
    return config


def test_a_small_teams_file(tmp_path: Path) -> None:
    keys = {"AZURE_EU_KEY": "eu", "AZURE_US_KEY": "us", "OPENAI_API_KEY": "oai", "ANTHROPIC_API_KEY": "ant"}
    config = gateway(tmp_path, SMALL_TEAM, **keys, MISTRAL_API_KEY="not in the list")
    models = {model["name"]: model["upstreams"] for model in config["models"]}
    azure = {"provider": "azure", "model": "team-gpt-4o"}
    assert models["gpt-4o"] == [
        {
            **azure,
            "api_key": "eu",
            "base_url": "https://team-eu.openai.azure.com",
            "weight": 600.0,
            "first_byte_ms": 40_000,
            "stream_first_byte_ms": 8_500,
        },
        {**azure, "api_key": "us", "base_url": "https://team-us.openai.azure.com", "weight": 200.0},
        {
            "provider": "openai",
            "model": "gpt-4o-2024-08-06",
            "api_key": "oai",
            "headers": {"openai-organization": "org-team"},
            "weight": 0.0,
        },
    ]
    assert models["sonnet"] == [
        {
            "provider": "anthropic",
            "model": "claude-sonnet-4-5",
            "base_url": "https://api.anthropic.com/v1",
            "headers": {"anthropic-beta": "some-beta"},
            "body": {"max_tokens": 4096, "stop_sequences": ["STOP"]},
        }
    ]
    providers = {provider["name"]: provider for provider in config["providers"]}
    assert providers["azure"]["api_version"] == "2024-10-21"
    assert providers["anthropic"]["api_key"] == "ant", "without a key of its own it takes the environment's"
    assert config["routing"] == {
        "listed_only": True,
        "strategy": "lowest_latency",
        "retries": 3,
        "retry_policy": {"rate_limit": 4, "timeout": 1, "auth": 0},
        "model_retry_policies": {"sonnet": {"server": 5}},
        "min_pause_ms": 1000,
        "allowed_fails": 2,
        "cooldown_ms": 30_000,
        "aliases": {"gpt-4": {"model": "gpt-4o"}, "old": {"model": "sonnet", "hidden": True}},
        "fallbacks": {"gpt-4o": ["sonnet"]},
        "context_window_fallbacks": {"gpt-4o": ["sonnet"]},
        "default_fallbacks": ["sonnet"],
    }
    assert config["timeouts"]["first_byte_ms"] == 120_000
    assert (config["routes"], config["default_model"]) == ([], "gpt-4o")


def test_local_servers_wildcards_and_variables_in_the_file(tmp_path: Path) -> None:
    config = gateway(tmp_path, EVERYTHING_LOCAL)
    assert config["models"] == [
        {
            "name": "local",
            "upstreams": [
                {
                    "provider": "ollama",
                    "model": "llama3",
                    "base_url": "http://gpu-1:11434/v1",
                    "body": {"temperature": 0.1, "seed": 7},
                }
            ],
        },
        {
            "name": "served",
            "upstreams": [{"provider": "vllm", "model": "meta/llama", "base_url": "http://gpu-2:8000/v1"}],
        },
        {"name": "groq/*", "upstreams": [{"provider": "groq", "model": "*", "api_key": "gsk-inline"}]},
    ]
    assert config["default_model"] == "local"


def test_deployments_of_one_provider_in_two_regions(tmp_path: Path) -> None:
    config = gateway(tmp_path, TWO_REGIONS)
    hosts = {provider["name"]: provider["region"] for provider in config["providers"]}
    assert hosts == {"bedrock": "us-east-1", "bedrock-2": "eu-west-1"}
    upstreams = config["models"][0]["upstreams"]
    assert [(one["provider"], one.get("weight", 1.0)) for one in upstreams] == [("bedrock", 3.0), ("bedrock-2", 1.0)]


def test_a_deployments_own_price_wins_over_what_is_known(tmp_path: Path) -> None:
    text = """
model_list:
  - model_name: mine
    litellm_params: {model: openai/tuned, api_key: k, input_cost_per_token: 0.000002, output_cost_per_token: 1e-5}
    model_info: {cache_read_input_token_cost: 5e-7, input_cost_per_token: 9}
  - {model_name: known, litellm_params: {model: openai/gpt-4o, api_key: k}}
"""
    assert gateway(tmp_path, text)["prices"] == [
        {"provider": "openai", "model": "tuned", "input": 2.0, "output": 10.0, "cache_read": 0.5}
    ]


def test_parameters_are_dropped_where_litellm_was_told_to(tmp_path: Path) -> None:
    text = "model_list: [{model_name: m, litellm_params: {model: anthropic/c, api_key: k}}]\n"
    assert "drop_params" not in gateway(tmp_path, text)["providers"][0]
    dropping = gateway(tmp_path, text + "litellm_settings: {drop_params: true}")
    assert dropping["providers"][0]["drop_params"] is True


def test_a_star_opens_all_providers_that_have_a_key(tmp_path: Path) -> None:
    text = """
model_list:
  - {model_name: mine, litellm_params: {model: openai/gpt-4o}}
  - {model_name: "*", litellm_params: {model: "*"}}
"""
    config = gateway(tmp_path, text, OPENAI_API_KEY="k", GROQ_API_KEY="g")
    assert [provider["name"] for provider in config["providers"]] == ["openai", "groq"]
    assert config["routing"] == {}
    assert {"pattern": "gpt-*", "provider": "openai"} in config["routes"]


def test_included_files_are_joined_and_watched(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "more.yaml").write_text(
        "model_list: [{model_name: b, litellm_params: {model: openai/b}}]\nrouter_settings: {num_retries: 9}"
    )
    path = tmp_path / "config.yaml"
    path.write_text(
        "include: [models/more.yaml]\nmodel_list: [{model_name: a, litellm_params: {model: openai/a}}]\n"
        "router_settings: {num_retries: 1}"
    )
    settings = load(path, {"TRUNKLINE_HOME": str(tmp_path), "OPENAI_API_KEY": "k"})
    assert list(settings.models) == ["a", "b"]
    assert settings.routing.retries == 1, "the file that includes wins"
    assert settings.files == (path, tmp_path / "models" / "more.yaml")
    (tmp_path / "models" / "more.yaml").write_text("include: [../config.yaml]")
    with pytest.raises(SetupError, match="included already"):
        load(path, {"TRUNKLINE_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("model_list: []\nrouter_settings: [1]", "`router_settings` must be a mapping"),
        ("model_list: [{model_name: a}]", r"`model_list\[0\]` must have"),
        ("model_list: [{model_name: a, litellm_params: {}}]", r"`model_list\[0\]` has no `model`"),
        ("model_list: []", "no model that Trunkline can serve"),
        (
            "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: os.environ/NOT_SET}}]",
            r"`model_list\[0\].litellm_params.api_key` takes the environment variable NOT_SET",
        ),
        (
            "model_list: [{model_name: a, litellm_params: {model: openai/a}}]\nlitellm_settings: {fallbacks: [a]}",
            "`fallbacks` must be a list of",
        ),
        (
            "model_list: [{model_name: a, litellm_params: {model: openai/a}}]\nrouter_settings: {num_retries: many}",
            "`routing.retries`: Input should be a valid integer",
        ),
    ],
)
def test_a_fault_is_one_line_that_names_the_file_and_the_key(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(SetupError, match=fault) as caught:
        gateway(tmp_path, text, OPENAI_API_KEY="k")
    assert str(tmp_path / "config.yaml") in caught.value.message
    assert "\n" not in caught.value.message


def statuses(tmp_path: Path, text: str, **environ: str) -> dict[str, tuple[str, str]]:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    found = check(path, {"TRUNKLINE_HOME": str(tmp_path), **environ}, KNOWN, check_config)
    return {finding.key: (finding.status, finding.note) for finding in found}


def test_each_key_of_litellms_file_is_accounted_for(tmp_path: Path) -> None:
    text = """
model_list:
  - model_name: a
    litellm_params: {model: openai/a, api_key: k, mock_response: hi, tpm: 5, brand_new_key: 1, input_cost_per_second: 1}
    model_info: {id: x, mode: chat, access_groups: [g], input_cost_per_token: 1e-6}
  - model_name: b
    litellm_params: {model: vertex_ai/gemini, vertex_project: p}
  - model_name: c
    litellm_params: {model: anthropic/c, api_key: k, seed: 3}
router_settings: {routing_strategy: usage-based-routing-v2, redis_host: r, num_retries: 2}
litellm_settings: {success_callback: [langfuse], set_verbose: true, odd: 1, cache: false, drop_params: true}
general_settings: {master_key: os.environ/NOT_SET, database_url: x}
surprise: 1
"""
    found = statuses(tmp_path, text)
    assert {key: status for key, (status, _) in found.items()} == {
        "model_list[0].model_name": "used",
        "model_list[0].model_info.id": "ignored",
        "model_list[0].model_info.mode": "ignored",
        "model_list[0].model_info.access_groups": "unsupported",
        "model_list[0].model_info.input_cost_per_token": "used",
        "model_list[0].litellm_params.model": "used",
        "model_list[0].litellm_params.api_key": "used",
        "model_list[0].litellm_params.mock_response": "unsupported",
        "model_list[0].litellm_params.tpm": "used",
        "model_list[0].litellm_params.brand_new_key": "unsupported",
        "model_list[0].litellm_params.input_cost_per_second": "unsupported",
        "model_list[1].model_name": "used",
        "model_list[1].litellm_params.model": "unsupported",
        "model_list[1].litellm_params.vertex_project": "unsupported",
        "model_list[2].model_name": "used",
        "model_list[2].litellm_params.model": "used",
        "model_list[2].litellm_params.api_key": "used",
        "model_list[2].litellm_params.seed": "unsupported",
        "router_settings.routing_strategy": "unsupported",
        "router_settings.redis_host": "ignored",
        "router_settings.num_retries": "used",
        "litellm_settings.success_callback": "unsupported",
        "litellm_settings.set_verbose": "ignored",
        "litellm_settings.odd": "unsupported",
        "litellm_settings.cache": "ignored",
        "litellm_settings.drop_params": "used",
        "general_settings.master_key": "unsupported",
        "general_settings.database_url": "unsupported",
        "surprise": "unsupported",
    }
    assert all(note for status, note in found.values() if status in ("ignored", "unsupported"))


@pytest.mark.parametrize(
    ("text", "key", "note"),
    [
        ("providers: {openai: {api_key: k, api_kye: k}}", "providers.openai.api_kye", "unknown key"),
        ("models: {m: {provider: openai, model: x, weight: -1}}", "models.m[0].weight", "greater than or equal to 0"),
        ("routing: {strategy: fastest}", "routing.strategy", "Input should be 'shuffle'"),
    ],
)
def test_what_is_wrong_in_trunklines_own_file_is_told_by_its_key(
    tmp_path: Path, text: str, key: str, note: str
) -> None:
    status, said = statuses(tmp_path, text)[key]
    assert status == "invalid"
    assert note in said


def test_what_only_the_gateway_sees_is_told_too(tmp_path: Path) -> None:
    text = """
providers: {openai: {api_key: k}}
models: {m: {provider: openai, model: x}}
routing: {fallbacks: {m: [nowhere]}, aliases: {n: m}}
"""
    found = statuses(tmp_path, text)
    assert found.pop(str(tmp_path / "config.yaml")) == ("invalid", "a fallback goes to 'nowhere', which nothing serves")
    assert {status for status, _ in found.values()} == {"used"}
    assert "routing.fallbacks.m" in found


def test_the_command_tells_each_key_and_fails_for_what_is_not_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: sk-secret, rpm: 3}}]")
    assert run(["config", "check", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"used": 4}
    assert {"key": "model_list[0].litellm_params.rpm", "status": "used"}.items() <= told["keys"][3].items()

    path.write_text(path.read_text() + "\nlitellm_settings: {callbacks: [x]}")
    assert run(["config", "check", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "unsupported" in shown
    assert "litellm_settings.callbacks" in shown
    assert "sk-secret" not in shown

    path.write_text("{")
    assert run(["config", "check", str(path)]) == 1
    assert "is not YAML" in capsys.readouterr().err


def test_prefixes_lead_to_the_providers_own_wires(tmp_path: Path) -> None:
    azure = {"api_base": "https://x.openai.azure.com", "api_version": "2025-04-01-preview"}
    deployments: list[dict[str, str]] = [
        {"model": "openai/responses/gpt-5-codex"},
        {"model": "azure/responses/codex", **azure},
        {"model": "openai/o1-pro", "mode": "responses"},
        {"model": "openai/gpt-4o"},
        {"model": "gemini/gemini-2.5-pro"},
        {"model": "bedrock/converse/amazon.nova-pro-v1:0", "aws_region_name": "us-east-1"},
    ]
    entries = []
    for index, params in enumerate(deployments):
        info = {"mode": params.pop("mode", "chat")}
        entries.append({"model_name": str(index), "model_info": info, "litellm_params": {"api_key": "k", **params}})
    text = json.dumps({"model_list": entries})
    config = gateway(tmp_path, text, AWS_BEARER_TOKEN_BEDROCK="t")
    wires = {provider["name"]: provider["wires"] for provider in config["providers"]}
    assert (wires["gemini"], wires["bedrock"]) == (["gemini"], ["bedrock_converse"])
    assert wires["openai"] == wires["azure"] == ["openai_chat", "openai_responses"]
    found = [(model["upstreams"][0]["model"], model["upstreams"][0].get("wires")) for model in config["models"]]
    responses = ["openai_responses"]
    assert found == [
        ("gpt-5-codex", responses),
        ("codex", responses),
        ("o1-pro", responses),
        ("gpt-4o", None),
        ("gemini-2.5-pro", None),
        ("amazon.nova-pro-v1:0", None),
    ]
