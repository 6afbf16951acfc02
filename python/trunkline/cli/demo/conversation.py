"""Unmodified SDKs as clients."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trunkline.cli.demo.world import World

if TYPE_CHECKING:
    from anthropic.types import MessageParam
    from openai.types.chat import ChatCompletionMessageParam


@dataclass(frozen=True)
class Turn:
    """What the user said and the agent answered."""

    client: str
    said: str
    answered: str
    seconds: float
    pieces: int | None = None
    """How many pieces the answer was streamed in; None if it was not."""


def import_sdks() -> None:
    """Import both, which takes a while."""
    import anthropic  # noqa: F401
    import openai  # noqa: F401


def openai_session(world: World, agent: str, user: str, said: Sequence[str]) -> Iterator[Turn]:
    """Yield each turn of a conversation, streamed."""
    from openai import OpenAI

    messages: list[ChatCompletionMessageParam] = []
    with OpenAI(base_url=f"{world.base_url}/v1", api_key=world.key) as client:
        for text in said:
            messages.append({"role": "user", "content": text})
            began = time.monotonic()
            stream = client.chat.completions.create(model=f"agent/{agent}", messages=messages, user=user, stream=True)
            pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
            answered = "".join(piece for piece in pieces if piece)
            messages.append({"role": "assistant", "content": answered})
            yield Turn("openai", text, answered, time.monotonic() - began, sum(1 for piece in pieces if piece))


def anthropic_session(world: World, agent: str, user: str, said: Sequence[str]) -> Iterator[Turn]:
    """Yield each turn of a conversation, not streamed."""
    from anthropic import Anthropic

    messages: list[MessageParam] = []
    with Anthropic(base_url=world.base_url, api_key=world.key) as client:
        for text in said:
            messages.append({"role": "user", "content": text})
            began = time.monotonic()
            message = client.messages.create(
                model=f"agent/{agent}", max_tokens=1024, messages=messages, metadata={"user_id": user}
            )
            answered = "".join(block.text for block in message.content if block.type == "text")
            messages.append({"role": "assistant", "content": answered})
            yield Turn("anthropic", text, answered, time.monotonic() - began)
