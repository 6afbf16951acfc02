"""What others answer, without the secrets that they were sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

HIDDEN = "[credential]"


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Return a text with secrets blotted out, however they are written in URLs, JSON and headers."""
    forms = {form for secret in secrets if secret for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


def basic(client_id: str, client_secret: str) -> str:
    """Return how a client's secret is written in a header: RFC 6749, section 2.3.1."""
    return base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()).decode()


def _forms(secret: str) -> Iterable[str]:
    yield from (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1])
