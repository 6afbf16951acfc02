"""What models cost, from the `genai-prices` package into `trunkline.model_prices`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from psycopg import Connection
from psycopg.rows import DictRow

from trunkline.store.queries import queries

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

PACKAGE = "genai-prices"

Price = tuple[str, str, Decimal, Decimal, Decimal | None, Decimal | None]
"""Provider, model, and US dollars a million tokens: input, output, cache read, cache write."""


def load_prices(connection: Connection[DictRow], now: datetime | None = None) -> int:
    """Replace all prices by those of the installed package that hold at `now`; return how many there are."""
    prices = list(_prices(now or datetime.now(UTC)))
    connection.execute(queries("prices")["clear_prices"])
    connection.execute(queries("prices")["insert_prices"], [list(column) for column in zip(*prices, strict=True)])
    return len(prices)


def _prices(now: datetime) -> Iterator[Price]:
    """Yield the standard price of every model that has one, under its id and each of its exact aliases.

    Where the price depends on the prompt's length, it is that of the shortest prompts.
    """
    # 0.3 s: loaded only when the catalogue is.
    from genai_prices.data import providers  # noqa: PLC0415
    from genai_prices.types import TieredPrices  # noqa: PLC0415

    def base(price: object) -> Decimal | None:
        if isinstance(price, TieredPrices):
            return price.base
        return price if isinstance(price, Decimal) else None

    for provider in providers:
        for model in provider.models:
            price = model.get_prices(now)
            columns = [
                base(getattr(price, key, None))
                for key in ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
            ]
            if columns[0] is None and columns[1] is None:
                continue
            for name in _names(model):
                yield provider.id, name, columns[0] or Decimal(0), columns[1] or Decimal(0), columns[2], columns[3]


def _names(model: ModelInfo) -> list[str]:
    from genai_prices.types import ClauseEquals, ClauseOr  # noqa: PLC0415

    clauses = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
    return [model.id, *(clause.equals for clause in clauses if isinstance(clause, ClauseEquals))]
