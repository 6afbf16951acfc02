"""Limits as clients meet them: each refuses in the client's wire, says whose it is, and lets go when it should."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import anthropic
import openai
import psycopg
import pytest

from support.postgres import copied_database, temporary_home
from support.stack import Part, Stack, eventually, serving, wait_ready
from trunkline.store.embedded import ConnectionInfo

COUNTED = 2000 * 10 / 1e6 + 11 * 1000 / 1e6
"""What a call to 'count the tokens' costs, in US dollars, by the prices in the stack's configuration."""


def chat(client: openai.OpenAI, text: str = "count the tokens", **more: Any) -> Any:
    """Ask for at most eleven tokens, unless told otherwise."""
    given = {"model": "gpt", "messages": [{"role": "user", "content": text}], "max_tokens": 11, **more}
    return client.chat.completions.create(**given)


def message(client: anthropic.Anthropic, text: str = "count the tokens") -> Any:
    return client.messages.create(model="claude", max_tokens=11, messages=[{"role": "user", "content": text}])


def refusal(call: Callable[[], Any], most: int) -> Any:
    """Call until it is refused, which must be after `most` calls at the latest; a new minute may lie between."""
    for _ in range(2 * most + 1):
        try:
            call()
        except (openai.RateLimitError, anthropic.RateLimitError) as error:
            return error
    raise AssertionError(f"{2 * most + 1} calls went through")


def shown(stack: Stack, path: str) -> dict[str, Any]:
    with stack.http() as http:
        found: dict[str, Any] = http.get(path).json()
    return found


def posted(stack: Stack, path: str, **body: Any) -> dict[str, Any]:
    with stack.http() as http:
        answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_requests_a_minute(stack: Stack) -> None:
    key, _ = stack.inference_key(rpm=3)
    error = refusal(lambda: chat(stack.openai(key)), 3)
    assert error.code == "rate_limit_exceeded"
    assert "the API key 'test' is 3 requests a minute" in error.message
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    theirs, _ = stack.inference_key(rpm=3)
    other = refusal(lambda: message(stack.anthropic(theirs)), 3)
    assert other.body["error"]["type"] == "rate_limit_error"
    assert 1 <= int(other.response.headers["retry-after"]) <= 60


def test_what_is_left_of_a_rate_is_told(stack: Stack) -> None:
    key, _ = stack.inference_key(rpm=1000, tpm=100_000)
    first = stack.openai(key).chat.completions.with_raw_response.create(
        model="gpt", messages=[{"role": "user", "content": "hi"}], max_tokens=10
    )
    assert first.headers["x-ratelimit-limit-requests"] == "1000"
    assert int(first.headers["x-ratelimit-remaining-requests"]) == 999
    assert first.headers["x-ratelimit-limit-tokens"] == "100000"
    assert 99_000 < int(first.headers["x-ratelimit-remaining-tokens"]) < 100_000
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    free, _ = stack.inference_key()
    plain = stack.openai(free).chat.completions.with_raw_response.create(
        model="gpt", messages=[{"role": "user", "content": "hi"}]
    )
    assert not [name for name in plain.headers if name.startswith("x-ratelimit-")]


def test_tokens_a_minute(stack: Stack) -> None:
    key, _ = stack.inference_key(tpm=4100)
    # Each takes 2,011 in the end, whatever it was thought to take.
    error = refusal(lambda: chat(stack.openai(key)), 2)
    assert error.code == "rate_limit_exceeded"
    assert "4100 tokens a minute" in error.message
    with pytest.raises(openai.RateLimitError, match="this call alone may take"):
        chat(stack.openai(key), max_tokens=5000)


def test_calls_at_once(stack: Stack) -> None:
    key, _ = stack.inference_key(parallel=1)
    client = stack.openai(key)
    slow = chat(client, "take your time", stream=True, max_tokens=100)
    next(iter(slow))
    with pytest.raises(openai.RateLimitError, match="1 calls at once") as refused:
        chat(client)
    assert refused.value.code == "rate_limit_exceeded"
    slow.close()

    def let_in() -> bool:
        chat(client)
        return True

    assert eventually(let_in), "the client went away, and its place with it"
    for _ in range(5):
        chat(client)


def test_a_budget_is_spent_to_the_last_call_that_fits(stack: Stack) -> None:
    key, key_id = stack.inference_key(budget_usd=COUNTED * 3.5)
    client = stack.openai(key)
    for _ in range(3):
        chat(client)
    # What a call may cost is estimated by its length, which these 2,000 prompt tokens go beyond: so may one call.
    error = refusal(lambda: chat(client, max_tokens=16), 1)
    assert "The budget of the API key 'test'" in error.message
    assert error.code == "insufficient_quota"
    assert "retry-after" not in error.response.headers, "a budget in all does not come again"
    assert eventually(lambda: shown(stack, f"/v1/keys/{key_id}")["requests"] >= 3)
    used = shown(stack, f"/v1/keys/{key_id}")
    assert used["spent_usd"] <= COUNTED * 4.5
    with pytest.raises(anthropic.RateLimitError, match="budget"):
        stack.anthropic(key).messages.create(
            model="claude", max_tokens=200, messages=[{"role": "user", "content": "a"}]
        )
    posted(stack, f"/v1/keys/{key_id}", budget_usd=1)
    assert eventually(lambda: bool(chat(client))), "raised, it holds at once"


def test_a_call_that_could_cost_more_than_is_left_is_told_so(stack: Stack) -> None:
    key, _ = stack.inference_key(budget_usd=0.5, budget_period="day")
    with pytest.raises(
        openai.RateLimitError, match=r"\(0\.5 USD a day\) has 0\.500000 USD left, and this call"
    ) as refused:
        chat(stack.openai(key), max_tokens=1000)
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 86_400
    # Nothing was taken for it, and the same with fewer tokens passes.
    chat(stack.openai(key), max_tokens=400)


def test_a_budget_begins_anew_with_its_period(stack: Stack) -> None:
    key, key_id = stack.inference_key(budget_usd=0.02, budget_period=2)
    client = stack.openai(key)
    error = refusal(lambda: chat(client), 3)
    assert int(error.response.headers["retry-after"]) in (1, 2)
    assert eventually(lambda: bool(chat(client))), "in the next two seconds it may spend again"
    assert shown(stack, f"/v1/keys/{key_id}")["spent_usd"] >= COUNTED


def test_a_failed_call_costs_nothing(stack: Stack) -> None:
    key, key_id = stack.inference_key(budget_usd=0.05)
    client = stack.openai(key)
    for _ in range(8):
        with pytest.raises(openai.BadRequestError):
            chat(client, max_tokens=20, tools="none of these")
    chat(client, max_tokens=20)
    assert eventually(lambda: shown(stack, f"/v1/keys/{key_id}")["requests"] >= 1)
    assert shown(stack, f"/v1/keys/{key_id}")["spent_usd"] == pytest.approx(COUNTED)


def test_a_client_that_goes_away_pays_for_what_it_got(stack: Stack) -> None:
    key, key_id = stack.inference_key(budget_usd=1.0)
    stream = chat(stack.openai(key), "take your time", stream=True, max_tokens=900)
    for _, _chunk in zip(range(4), stream, strict=False):
        pass
    stream.close()
    assert eventually(lambda: shown(stack, f"/v1/keys/{key_id}")["requests"] == 1)
    assert 0 < shown(stack, f"/v1/keys/{key_id}")["spent_usd"] < 0.1
    # What was reserved for 900 tokens is free again.
    chat(stack.openai(key), max_tokens=880)


def test_a_team_shares_its_limits(stack: Stack) -> None:
    name = f"team-{uuid4().hex[:8]}"
    team = posted(stack, "/v1/teams", name=name, budget_usd=0.068, models=["gp*"])
    keys = [stack.inference_key(team_id=name) for _ in range(2)]
    for key, _ in keys:
        chat(stack.openai(key), max_tokens=11)
    error = refusal(lambda: chat(stack.openai(keys[1][0])), 1)
    assert f"the team '{name}'" in error.message
    with pytest.raises(anthropic.PermissionDeniedError, match=f"the team '{name}'"):
        message(stack.anthropic(keys[0][0]))
    assert eventually(lambda: shown(stack, f"/v1/teams/{name}")["requests"] >= 2)
    with stack.http() as http:
        ended = http.delete(f"/v1/teams/{team['id']}").json()
    assert ended["archived_at"] is not None

    def refused() -> bool:
        try:
            stack.openai(keys[0][0]).models.list()
        except openai.AuthenticationError:
            return True
        return False

    assert eventually(refused), "its keys ended with it"


def test_end_users_have_limits_of_their_own_or_a_default(stack: Stack) -> None:
    rich, poor = f"rich-{uuid4().hex[:6]}", f"poor-{uuid4().hex[:6]}"
    key, _ = stack.inference_key(users={"budget_usd": 0.03, "budget_period": "month"})
    client = stack.openai(key)
    posted(stack, "/v1/user_limits", user_id=rich, budget_usd=10)
    for _ in range(3):
        chat(client, user=rich)
    error = refusal(lambda: chat(client, user=poor), 2)
    assert f"the user '{poor}'" in error.message
    assert error.code == "insufficient_quota"
    chat(client, user=f"another-{uuid4().hex[:6]}")
    chat(client)
    posted(stack, "/v1/user_limits", user_id=poor, models=["claude"])
    assert eventually(lambda: _forbidden(client, poor)), "told by NOTIFY"
    with stack.http() as http:
        (used,) = http.get("/v1/user_limits", params={"user_id": rich}).json()["data"]
    assert used["spent_usd"] == pytest.approx(3 * COUNTED)
    ends, _ = stack.inference_key(user_id=poor)
    with pytest.raises(openai.PermissionDeniedError):
        chat(stack.openai(ends), user=rich)


def _forbidden(client: openai.OpenAI, user: str) -> bool:
    try:
        chat(client, user=user)
    except openai.PermissionDeniedError:
        return True
    except openai.RateLimitError:
        pass
    return False


def test_models_by_pattern(stack: Stack) -> None:
    key, _ = stack.inference_key(models=["cl*"])
    message(stack.anthropic(key))
    with pytest.raises(openai.PermissionDeniedError, match="may not use the model 'gpt'"):
        chat(stack.openai(key))
    assert [model.id for model in stack.openai(key).models.list() if "/" not in model.id] == ["claude"]


@pytest.fixture(scope="module")
def pair(postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[tuple[Stack, Part]]:
    """A stack with short leases, and a second gateway over its database."""
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, scripted_model, home, lease_seconds=3) as stack,
    ):
        other = home / "other"
        other.mkdir()
        arguments = stack.gateway.arguments.copy()
        arguments[2] = "127.0.0.1:0"
        second = Part(arguments, {**stack.gateway.environment, "TRUNKLINE_HOME": str(other)}, home / "second.log")
        try:
            wait_ready(second.start())
            yield stack, second
        finally:
            second.end()


def test_gateways_under_load_share_one_budget(pair: tuple[Stack, Part]) -> None:
    stack, second = pair
    budget = COUNTED * 40.5
    key, key_id = stack.inference_key(budget_usd=budget)
    let_in: list[str] = []

    def serve(base_url: str) -> None:
        client = replace(stack, base_url=base_url).openai(key)
        refused = 0
        while refused < 3:
            try:
                # Thought to cost what it does cost: 2,000 prompt tokens are estimated by the length of the request.
                chat(client, "count the tokens" + " " * 8000)
                let_in.append(base_url)
            except openai.RateLimitError:
                refused += 1
                time.sleep(0.1)

    threads = [threading.Thread(target=serve, args=(url,)) for url in (stack.base_url, second.base_url) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert eventually(lambda: shown(stack, f"/v1/keys/{key_id}")["requests"] == len(let_in))
    spent = shown(stack, f"/v1/keys/{key_id}")["spent_usd"]
    assert spent == pytest.approx(len(let_in) * COUNTED)
    assert spent <= budget
    assert set(let_in) == {stack.base_url, second.base_url}
    # What one gateway still holds cannot be had by the other: a call or two at most.
    assert spent > budget - 4 * COUNTED


def test_a_killed_gateways_lease_ends_and_its_calls_are_charged_once(pair: tuple[Stack, Part]) -> None:
    stack, second = pair
    key, key_id = stack.inference_key(budget_usd=COUNTED * 8.5, parallel=1)
    there = replace(stack, base_url=second.base_url).openai(key)
    chat(there)
    slow = chat(there, "take your time", stream=True, max_tokens=200)
    next(iter(slow))
    second.send(signal.SIGKILL)
    second.wait()
    with pytest.raises(openai.APIError):
        list(slow)
    here = stack.openai(key)
    with pytest.raises(openai.RateLimitError):
        chat(here)
    assert eventually(lambda: bool(chat(here))), "what the dead one held comes back when its lease has ended"
    second.arguments[2] = "127.0.0.1:0"
    wait_ready(second.start())
    assert eventually(lambda: shown(stack, f"/v1/keys/{key_id}")["requests"] >= 2)
    with psycopg.connect(stack.admin_url) as connection:
        rows = connection.execute(
            "select coalesce(sum(cost_usd), 0)::float8 from trunkline.usage where key_id = %s",
            (UUID(key_id.removeprefix("key_")),),
        ).fetchone()
    assert rows is not None
    assert shown(stack, f"/v1/keys/{key_id}")["spent_usd"] == pytest.approx(rows[0])


def test_a_gateway_that_is_told_to_stop_returns_what_it_holds(pair: tuple[Stack, Part]) -> None:
    stack, second = pair
    key, key_id = stack.inference_key(budget_usd=100)
    chat(replace(stack, base_url=second.base_url).openai(key))

    def lent() -> int:
        held = "select count(*)::int as n from trunkline.leases where nano_usd > 0 and subject = %s"
        return int(stack.rows(held, str(UUID(key_id.removeprefix("key_"))))[0]["n"])

    assert lent() == 1
    second.send(signal.SIGTERM)
    assert second.wait() == 0
    assert lent() == 0
