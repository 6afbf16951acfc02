"""Renewing an access token at its token endpoint: RFC 6749, section 6, and resource indicators (RFC 8707)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from trunkline.domain.credentials import MOST_SECRET, Secrets, Tokens
from trunkline.domain.times import now
from trunkline.oauth.secrecy import basic, hidden
from trunkline.public_hosts import Allowed
from trunkline.public_http import NotReached, answer, body_of

SECONDS: Final = 10.0
"""For the whole of one attempt."""
MOST_BYTES: Final = 256 * 1024
_LONGEST_LIFE: Final = 10 * 365 * 86_400
"""Seconds; what is said to last longer has no end that anybody will see."""
_CODE: Final = re.compile(r"[a-z_]{1,64}")
_TOLD: Final = ("error", "error_description", "error_uri")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as it may be shown: without secrets, and not all of a long one."""

    status: int
    content_type: str
    body: str
    is_cut: bool

    @classmethod
    def of(cls, status: int, content_type: str, text: str, *, is_cut: bool = False) -> Said:
        """Return it with a body of at most 4096 characters."""
        longest = 4096
        return cls(status, content_type[:255], text[:longest], is_cut or len(text) > longest)


class NotRenewed(Exception):
    """The token endpoint gave no new token; the text is for users. `said`: it answered, with this."""

    def __init__(self, message: str, said: Said | None = None) -> None:
        super().__init__(message)
        self.said = said


async def renew(refresh: Mapping[str, Any], secrets: Secrets, allow: Collection[Allowed]) -> Tokens:
    """Spend a refresh token. `refresh` is what is told of it (`token_endpoint`, `client_id`, …). Raises NotRenewed."""
    form = {"grant_type": "refresh_token", "refresh_token": secrets["refresh_token"]}
    form |= {name: refresh[name] for name in ("scope", "resource") if refresh.get(name)}
    headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
    sent = list(secrets.values())
    match refresh["token_endpoint_auth"]["type"]:
        case "client_secret_basic":
            proof = basic(refresh["client_id"], secrets["client_secret"])
            headers["authorization"] = f"Basic {proof}"
            sent.append(proof)
        case "client_secret_post":
            form |= {"client_id": refresh["client_id"], "client_secret": secrets["client_secret"]}
        case _:
            form["client_id"] = refresh["client_id"]
    at = now()
    try:
        async with (
            asyncio.timeout(SECONDS),
            answer(
                "POST",
                refresh["token_endpoint"],
                allow=allow,
                setting="tools.mcp.allow",
                headers=headers,
                content=urlencode(form).encode(),
                seconds=SECONDS,
            ) as response,
        ):
            status, kind = response.status_code, response.headers.get("content-type", "")
            body, is_cut = await body_of(response, MOST_BYTES)
    except TimeoutError as error:
        raise NotRenewed(f"its token endpoint did not answer within {SECONDS:g} s.") from error
    except NotReached as error:
        raise NotRenewed(f"its token endpoint cannot be asked. {error}") from error
    return _read(_Answer(status, kind, body, is_cut), at, sent)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content_type: str
    body: bytes = field(repr=False)
    is_cut: bool


def _read(given: _Answer, at: datetime, sent: Collection[str]) -> Tokens:
    """Return the tokens of an answer to what was sent at a time. Raises NotRenewed."""
    try:
        fields = json.loads(given.body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        fields = None
    is_good = 200 <= given.status < 300
    if fields is not None:  # what else is there may be a token that nobody knows yet
        shown = json.dumps({name: fields[name] for name in _TOLD if name in fields})
    else:
        shown = "" if is_good else given.body.decode(errors="replace")
    said = Said.of(given.status, given.content_type, hidden(shown, sent), is_cut=given.is_cut)
    if not is_good:
        code = None if fields is None else fields.get("error")
        named = f" ({code})" if isinstance(code, str) and _CODE.fullmatch(code) and code not in sent else ""
        raise NotRenewed(f"its token endpoint refuses to renew it, with status {given.status}{named}.", said)
    if fields is None:
        raise NotRenewed("its token endpoint answered with something else than an object of JSON.", said)
    access, refresh = fields.get("access_token"), fields.get("refresh_token")
    if not _is_token(access):
        raise NotRenewed("its token endpoint answered without an access token.", said)
    if str(fields.get("token_type", "bearer")).lower() != "bearer":
        raise NotRenewed("its token endpoint gave a token of another type than Bearer.", said)
    return Tokens(access, _ends(fields.get("expires_in"), at), refresh if _is_token(refresh) else None)


def _is_token(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_SECRET


def _ends(seconds: object, at: datetime) -> datetime | None:
    """Return when a token ends that has so many seconds; servers write them as a number or as text."""
    try:
        lasts = float(seconds)  # type: ignore[arg-type]  # None and lists are TypeErrors
    except (TypeError, ValueError):
        return None
    if not 0 <= lasts <= _LONGEST_LIFE:  # NaN too
        return None
    return at + timedelta(seconds=lasts)
