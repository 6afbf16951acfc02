"""Who calls the memory routes, with a transaction of that caller's tenant, and how writes name them."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from fastapi import Depends
from pydantic import AfterValidator, StringConstraints

from trunkline.api.deps import Caller, calling_with
from trunkline.domain import ids
from trunkline.domain.memory import Actor, Subject
from trunkline.domain.principal import Principal

MemoryCaller = Annotated[Caller, Depends(calling_with("memory"), scope="function")]


def no_controls(text: str) -> str:
    """Return a one-line text. Raises ValueError for control characters, NUL among them."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("must not contain control characters")
    return text


def no_nul(text: str) -> str:
    """Return a text that Postgres can store. Raises ValueError for NUL."""
    if "\0" in text:
        raise ValueError("must not contain NUL (U+0000)")
    return text


UserId = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(no_controls)]
"""The client's own id of its user."""


def actor(caller: Caller) -> Actor:
    """Return the caller as the one who writes: its API key."""
    return Actor("api_key", ids.encode("key", caller.principal.key_id))


def subject(principal: Principal, user_id: str | None, session_id: str | None) -> Subject:
    """Return whose memory is meant: a key of one user speaks for that user. Raises NotFound for a bad session id."""
    return named(user_id if principal.user_id is None else principal.user_id, session_id)


def named(user_id: str | None, session_id: str | None) -> Subject:
    """Return the subject that a request names. Raises NotFound for a session id that is none."""
    return Subject(user_id, None if session_id is None else ids.decode("sesn", session_id))
