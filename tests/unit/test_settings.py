from pathlib import Path

import pytest

from trunkline.errors import SetupError
from trunkline.provider_settings import KnownProvider
from trunkline.settings import Settings, load

KNOWN = [
    KnownProvider(
        name="openai",
        wires=("openai_chat",),
        base_url="https://api.openai.com/v1",
        key_env="OPENAI_API_KEY",
        models=("gpt-*", "o3*"),
        default_model="gpt-6",
    ),
    KnownProvider(
        name="anthropic",
        wires=("anthropic_messages",),
        base_url="https://api.anthropic.com/v1",
        key_env="ANTHROPIC_API_KEY",
        models=("claude-*",),
        default_model="claude-sonnet-5",
    ),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def read(home: Path, text: str, **environ: str) -> Settings:
    path = home.parent / "trunkline.yaml"
    path.write_text(text)
    return load(None, {"TRUNKLINE_HOME": str(home), **environ})


def gateway(settings: Settings) -> dict[str, object]:
    return settings.gateway_config("host=/sock user=trunkline_gateway", "http://127.0.0.1:4001", KNOWN)


def test_a_key_in_the_environment_is_all_that_is_needed(home: Path) -> None:
    settings = load(None, {"TRUNKLINE_HOME": str(home), "ANTHROPIC_API_KEY": "sk-secret"})
    assert gateway(settings) == {
        "listen": "127.0.0.1:4000",
        "control_url": "http://127.0.0.1:4001",
        "database": "host=/sock user=trunkline_gateway",
        "spool_dir": str(home / "spool"),
        "spool_max_bytes": 268435456,
        "max_body_bytes": 33554432,
        "max_bodies_bytes": 536870912,
        "providers": [
            {
                "name": "anthropic",
                "wires": ["anthropic_messages"],
                "base_url": "https://api.anthropic.com/v1",
                "api_key": "sk-secret",
                "reach": "public",
            }
        ],
        "models": [],
        "routes": [{"pattern": "claude-*", "provider": "anthropic"}],
        "default_model": "anthropic/claude-sonnet-5",
        "routing": {},
        "prices": [],
        "output_tokens": 4096,
        "lease_ms": 120000,
        "timeouts": {
            "connect_ms": 5000,
            "first_byte_ms": 600000,
            "first_token_ms": 600000,
            "idle_ms": 300000,
            "total_ms": 3600000,
            "ping_ms": 15000,
            "client_idle_ms": 75000,
        },
        "ca_file": None,
        "cache": None,
        "record": None,
        "traces": None,
        "embedder": None,
    }


def test_threads_are_the_gateways_own_choice_unless_they_are_set(home: Path) -> None:
    assert gateway(read(home, "limits: {threads: 3}"))["threads"] == 3
    assert "threads" not in gateway(read(home, ""))


def test_without_any_provider_there_is_no_default_model(home: Path) -> None:
    config = gateway(load(None, {"TRUNKLINE_HOME": str(home)}))
    assert config["providers"] == []
    assert config["default_model"] is None


def test_the_file_names_models_and_providers(home: Path) -> None:
    settings = read(
        home,
        """
listen: 0.0.0.0:8080
models:
  fast: {provider: local, model: llama-9}
  careful:
    - {provider: anthropic, model: claude-opus-5}
    - {provider: local, model: llama-9}
providers:
  anthropic: {api_key: os.environ/COMPANY_KEY}
  local: {wire: openai_chat, base_url: "http://127.0.0.1:9000/v1/", api_key: none, models: ["llama-*"]}
limits: {max_body_bytes: 1000}
timeouts: {connect_ms: 100}
""",
        COMPANY_KEY="sk-company",
        OPENAI_API_KEY="sk-openai",
    )
    config = gateway(settings)
    assert config["listen"] == "0.0.0.0:8080"
    assert config["max_body_bytes"] == 1000
    assert config["default_model"] == "fast"
    assert config["models"] == [
        {"name": "fast", "upstreams": [{"provider": "local", "model": "llama-9"}]},
        {
            "name": "careful",
            "upstreams": [
                {"provider": "anthropic", "model": "claude-opus-5"},
                {"provider": "local", "model": "llama-9"},
            ],
        },
    ]
    assert [(provider["name"], provider["api_key"]) for provider in config["providers"]] == [  # type: ignore[attr-defined]
        ("anthropic", "sk-company"),
        ("local", None),
        ("openai", "sk-openai"),
    ]
    assert {"pattern": "llama-*", "provider": "local"} in config["routes"]  # type: ignore[operator]
    assert settings.source == Path("trunkline.yaml")


def test_secrets_stay_out_of_the_repr(home: Path) -> None:
    settings = read(
        home,
        "providers: {anthropic: {api_key: os.environ/COMPANY_KEY}}",
        COMPANY_KEY="sk-company",
        DATABASE_URL="postgresql://me:hunter2@db/x",
    )
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://me:hunter2@db/x"
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "sk-company" not in shown
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("lisen: 1", "unknown key `lisen`"),
        ("providers: {openai: {api_kye: x}}", "unknown key `providers.openai.api_kye`"),
        ("limits: {max_body_bytes: 2, max_bodies_bytes: 1}", "max_bodies_bytes must be at least max_body_bytes"),
        ("limits: {threads: 0}", "`limits.threads`"),
        ("limits: {max_body_bytes: lots}", "`limits.max_body_bytes`: Input should be a valid integer"),
        ("models: {fast: {provider: openai}}", "`models.fast[0].model` is missing"),
        ("models: {fast: []}", "`models.fast`: Value should have at least 1 item"),
        ("listen: 4000", "`listen`"),
        ("listen: localhost:4000", "`listen`: expected IP:PORT"),
        (
            "providers: {x: {wire: soap}}",
            "`providers.x.wires[0]`: Input should be 'openai_chat', 'anthropic_messages'",
        ),
        ("providers: {x: {base_url: 'ftp://x'}}", "`providers.x.base_url`"),
        ("providers: {openai: {api_key: os.environ/NOT_SET}}", "environment variable NOT_SET, which is not set"),
        ("- a list", "must be a mapping"),
        ("{", "is not YAML"),
    ],
)
def test_a_fault_is_one_line_that_names_the_file_and_the_key(home: Path, text: str, fault: str) -> None:
    with pytest.raises(SetupError) as caught:
        read(home, text)
    assert caught.value.message.startswith("trunkline.yaml: ")
    assert fault in caught.value.message
    assert "\n" not in caught.value.message


def test_a_bad_value_is_not_repeated_in_the_message(home: Path) -> None:
    with pytest.raises(SetupError) as caught:
        read(home, "providers: {openai: {api_key: [sk-secret]}}")
    assert "sk-secret" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("providers: {openai: {}}", "provider 'openai' has no key; give it `api_key` or set OPENAI_API_KEY"),
        ("providers: {mine: {api_key: x}}", "provider 'mine' is not one that Trunkline knows; give it `wires`"),
        ("models: {m: {provider: openai, model: gpt-6}}", "set OPENAI_API_KEY or add it under `providers`"),
        ("models: {m: {provider: mine, model: x}}", "needs provider 'mine', which is not available; add it"),
    ],
)
def test_an_incomplete_provider_is_told_with_the_remedy(home: Path, text: str, fault: str) -> None:
    settings = read(home, text)
    with pytest.raises(SetupError) as caught:
        gateway(settings)
    assert fault in caught.value.message


def test_the_environment_goes_before_the_file_for_the_address(home: Path) -> None:
    assert read(home, "listen: 127.0.0.1:1", TRUNKLINE_LISTEN="127.0.0.1:0").listen == "127.0.0.1:0"
    with pytest.raises(SetupError, match="TRUNKLINE_LISTEN is 'nowhere': expected IP:PORT"):
        read(home, "", TRUNKLINE_LISTEN="nowhere")


def test_the_home_holds_a_file_too_and_a_named_one_must_exist(home: Path) -> None:
    home.mkdir()
    (home / "trunkline.yaml").write_text("listen: 127.0.0.1:7")
    assert load(None, {"TRUNKLINE_HOME": str(home)}).listen == "127.0.0.1:7"
    with pytest.raises(SetupError, match=r"missing\.yaml: cannot be read: No such file"):
        load(Path("missing.yaml"), {"TRUNKLINE_HOME": str(home)})


FAMILIES = [
    *KNOWN,
    KnownProvider(
        name="azure",
        wires=("openai_chat",),
        family="azure",
        base_url="{AZURE_OPENAI_ENDPOINT}",
        key_env="AZURE_OPENAI_API_KEY",
    ),
    KnownProvider(
        name="bedrock",
        wires=("openai_chat",),
        family="bedrock",
        base_url="https://bedrock-runtime.{AWS_REGION}.amazonaws.com",
        key_env="AWS_BEARER_TOKEN_BEDROCK",
    ),
    KnownProvider(
        name="cohere",
        wires=("openai_chat", "openai_responses"),
        base_url="https://cohere/v1",
        base_urls={"openai_responses": "https://cohere/v2"},
        key_env="CO_KEY",
        quirks=("no_stream_options",),
    ),
    KnownProvider(name="ollama", wires=("openai_chat",), base_url="http://127.0.0.1:11434/v1"),
]


def entries(settings: Settings) -> dict[str, dict[str, object]]:
    config = settings.gateway_config("host=/sock", "http://127.0.0.1:4001", FAMILIES)
    return {entry.pop("name"): entry for entry in config["providers"]}


def test_a_base_url_takes_its_variables_from_the_environment(home: Path) -> None:
    environ = {"TRUNKLINE_HOME": str(home), "AZURE_OPENAI_API_KEY": "k"}
    assert entries(load(None, environ)) == {}, "without its endpoint Azure is not there"
    with_endpoint = environ | {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/"}
    azure = {"wires": ["openai_chat"], "family": "azure", "base_url": "https://mine.openai.azure.com", "api_key": "k"}
    assert entries(load(None, with_endpoint)) == {"azure": azure}
    settings = read(home, "providers: {azure: {api_version: '2024-10-21', api_key: k}}")
    with pytest.raises(SetupError, match="needs AZURE_OPENAI_ENDPOINT set, or `base_url`"):
        entries(settings)
    settings = read(home, "providers: {azure: {api_version: '2024-10-21', api_key: k, base_url: 'https://a.example'}}")
    assert entries(settings) == {"azure": azure | {"base_url": "https://a.example", "api_version": "2024-10-21"}}


def test_bedrock_takes_a_token_or_keys_from_the_file_or_the_environment(home: Path) -> None:
    bedrock = {"wires": ["openai_chat"], "family": "bedrock", "api_key": None, "reach": "public"}
    url = "https://bedrock-runtime.{}.amazonaws.com"
    settings = load(None, {"TRUNKLINE_HOME": str(home), "AWS_BEARER_TOKEN_BEDROCK": "t", "AWS_REGION": "eu-west-1"})
    assert entries(settings) == {"bedrock": bedrock | {"api_key": "t", "base_url": url.format("eu-west-1")}}
    keys = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "st"}
    assert entries(load(None, {"TRUNKLINE_HOME": str(home), **keys})) == {}, "keys alone are kept for other things too"
    settings = read(home, "providers: {bedrock: {region: us-west-2}}", **keys)
    aws = {"access_key_id": "AKID", "secret_access_key": "s", "session_token": "st"}
    expected = bedrock | {"base_url": url.format("us-west-2"), "region": "us-west-2", "aws": aws}
    assert entries(settings) == {"bedrock": expected}
    own = "providers: {bedrock: {access_key_id: A, secret_access_key: B}}"
    assert entries(read(home, own, AWS_DEFAULT_REGION="eu-west-1", **keys))["bedrock"]["aws"] == {
        "access_key_id": "A",
        "secret_access_key": "B",
    }


def test_a_known_host_is_a_public_one_unless_the_user_names_it(home: Path) -> None:
    def reach(yaml: str, **environ: str) -> object:
        (entry,) = entries(read(home, yaml, **environ)).values()
        return entry.get("reach")

    assert reach("providers: {cohere: {api_key: k}}") == "public"
    assert reach("providers: {mine: {like: cohere, api_key: k}}") == "public"
    assert reach("", CO_KEY="k") == "public"
    # The same URL, but in the user's own hand: a company's DNS may lead it to a proxy inside.
    assert reach("providers: {cohere: {api_key: k, base_url: 'https://cohere/v1'}}") is None
    assert reach("providers: {ollama: {}}") is None
    assert reach("", AZURE_OPENAI_API_KEY="k", AZURE_OPENAI_ENDPOINT="https://private.example") is None


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("bedrock: {region: us-west-2}", "has no credentials"),
        ("bedrock: {access_key_id: A, secret_access_key: B}", "has no region"),
        ("bedrock: {region: r, api_key: k, access_key_id: A}", "either `api_key` or access keys"),
        ("openai: {api_key: k, region: us-west-2}", "`region` is for Bedrock"),
        ("openai: {api_key: k, api_version: v}", "`api_version` is Azure's"),
        ("openai: {api_key: k, quirks: [odd]}", "quirks"),
        ("openai: {api_key: k, family: odd}", "family"),
    ],
)
def test_what_a_provider_cannot_have_is_an_error(home: Path, provider: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        entries(read(home, f"providers: {{{provider}}}"))


def test_local_servers_need_no_key_and_quirks_are_passed_on(home: Path) -> None:
    assert entries(read(home, "providers: {ollama: {}}", CO_KEY="k")) == {
        "ollama": {"wires": ["openai_chat"], "base_url": "http://127.0.0.1:11434/v1", "api_key": None},
        "cohere": {
            "wires": ["openai_chat", "openai_responses"],
            "base_url": "https://cohere/v1",
            "base_urls": {"openai_responses": "https://cohere/v2"},
            "api_key": "k",
            "quirks": ["no_stream_options"],
            "reach": "public",
        },
    }
    settings = read(home, "providers: {cohere: {api_key: k, quirks: []}}")
    assert "quirks" not in entries(settings)["cohere"]


def test_a_providers_wires_are_its_own_or_those_that_are_known(home: Path) -> None:
    one = read(home, "providers: {cohere: {api_key: k, wire: openai_chat}}")
    assert (entries(one)["cohere"]["wires"], "base_urls" in entries(one)["cohere"]) == (["openai_chat"], False)
    elsewhere = read(home, "providers: {cohere: {api_key: k, base_url: 'https://mine/v1'}}")
    assert "base_urls" not in entries(elsewhere)["cohere"], "another host's paths are not the known one's"
    wires = "wires: [openai_chat, anthropic_messages]"
    text = f"providers: {{x: {{{wires}, base_url: 'https://x/v1', api_key: k, base_urls: %s}}}}"
    several = entries(read(home, text % "{anthropic_messages: 'https://x/anthropic/v1/'}"))["x"]
    assert several["wires"] == ["openai_chat", "anthropic_messages"]
    assert several["base_urls"] == {"anthropic_messages": "https://x/anthropic/v1"}
    with pytest.raises(SetupError, match="`base_urls` has gemini, which is not among its `wires`"):
        entries(read(home, text % "{gemini: 'https://x/g'}"))


def test_traces_go_where_the_file_or_opentelemetrys_variables_say(home: Path) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b,x-team=desk",
        "OTEL_SERVICE_NAME": "desk",
    }
    from_environment = gateway(read(home, "", **environ))["traces"]
    assert from_environment == {
        "endpoint": "http://collector:4318",
        "headers": {"x-key": "a b", "x-team": "desk"},
        "service_name": "desk",
        "sample": 1.0,
        "content_max_bytes": None,
    }
    settings = read(home, "traces: {endpoint: 'https://own:4318', headers: {x-key: hidden}, sample: 0.1}", **environ)
    assert gateway(settings)["traces"] == {
        "endpoint": "https://own:4318",
        "headers": {"x-key": "hidden"},
        "service_name": "trunkline",
        "sample": 0.1,
        "content_max_bytes": None,
    }
    assert "hidden" not in repr(settings)
    told = read(home, "traces: {endpoint: 'https://own:4318', content: true, content_max_bytes: 99}", **environ)
    traces = gateway(told)["traces"]
    assert isinstance(traces, dict)
    assert traces["content_max_bytes"] == 99


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"), ("OTEL_EXPORTER_OTLP_HEADERS", "no-equals")],
)
def test_opentelemetrys_variables_are_checked(home: Path, name: str, value: str) -> None:
    with pytest.raises(SetupError, match=name):
        read(home, "", **{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", name: value})


def test_a_companys_own_authority_is_named_by_a_file(home: Path) -> None:
    assert gateway(read(home, "ca_file: proxy.pem"))["ca_file"] == str(home.parent / "proxy.pem")
