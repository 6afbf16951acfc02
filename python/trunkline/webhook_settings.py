"""`webhooks` of trunkline.yaml."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from pydantic import BaseModel, ConfigDict


class WebhookSettings(BaseModel):
    """Where webhooks may go beside public addresses: networks such as `10.2.0.0/16`, or single addresses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: tuple[IPv4Network | IPv6Network, ...] = ()
