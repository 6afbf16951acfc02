"""What models cost, from the `genai-prices` package into `trunkline.model_prices`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from trunkline.store.queries import queries

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

PACKAGE = "genai-prices"

Price = tuple[str, str, Decimal, Decimal, Decimal | None, Decimal | None, int | None, Jsonb]
"""Provider, model, US dollars a million tokens (input, output, cache read, cache write), the longest prompt in tokens,
and for long prompts `[from so many tokens on, the four prices]`."""

_KEYS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")


def load_prices(connection: Connection[DictRow], now: datetime | None = None) -> int:
    """Replace all prices by those of the installed package that hold at `now`; return how many there are."""
    prices = list(_prices(now or datetime.now(UTC)))
    connection.execute(queries("prices")["clear_prices"])
    connection.execute(queries("prices")["insert_prices"], [list(column) for column in zip(*prices, strict=True)])
    return len(prices)


def _prices(now: datetime) -> Iterator[Price]:
    """Yield the standard price of every model that has one, under its id and each of its exact aliases."""
    # 0.3 s: loaded only when the catalogue is.
    from genai_prices.data import providers  # noqa: PLC0415
    from genai_prices.types import TieredPrices  # noqa: PLC0415

    def at(price: object, tokens: int) -> Decimal | None:
        if isinstance(price, TieredPrices):
            return next((tier.price for tier in reversed(price.tiers) if tokens > tier.start), price.base)
        return price if isinstance(price, Decimal) else None

    for provider in providers:
        for model in provider.models:
            price = model.get_prices(now)
            given = [getattr(price, key, None) for key in _KEYS]
            columns = [at(one, 0) for one in given]
            if columns[0] is None and columns[1] is None:
                continue
            starts = sorted({tier.start for one in given if isinstance(one, TieredPrices) for tier in one.tiers})
            tiers = [[start, *(_number(at(one, start + 1)) for one in given)] for start in starts]
            for tier in tiers:
                tier[1:3] = [tier[1] or 0, tier[2] or 0]
            rates = (columns[0] or Decimal(0), columns[1] or Decimal(0), columns[2], columns[3])
            for name in _names(model):
                yield provider.id, name, *rates, model.context_window, Jsonb(tiers)


def _number(price: Decimal | None) -> float | None:
    return None if price is None else float(price)


def _names(model: ModelInfo) -> list[str]:
    from genai_prices.types import ClauseEquals, ClauseOr  # noqa: PLC0415

    clauses = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
    return [model.id, *(clause.equals for clause in clauses if isinstance(clause, ClauseEquals))]
