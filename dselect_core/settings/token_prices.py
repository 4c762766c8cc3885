"""What a judge's tokens cost: the settings' word, else a dated table of OpenAI's list prices (token_prices.json).

The table counts only where OpenAI itself is asked: the same name behind another address has that one's price.

Trade-off: prices fall and the table does not know; its date is told wherever it is used, and a setting wins.
"""

import json
import re
from functools import cache
from importlib import resources
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import Field

from dselect_core.select.recipe import StrictModel

OPENAI_HOST = "api.openai.com"
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")  # gpt-4o-2024-11-20: a dated version of a model


class TokenPrice(StrictModel):
    """What a judge's tokens cost."""

    prompt: float = Field(ge=0, description="US dollars per million prompt tokens")
    completion: float = Field(ge=0, description="US dollars per million completion tokens")
    batch: float = Field(0.5, ge=0, description="what a token costs with `mode: batch`, as a share of these prices")

    def in_batch(self) -> "TokenPrice":
        """The price of the same tokens in a batch."""
        return TokenPrice(prompt=self.prompt * self.batch, completion=self.completion * self.batch, batch=1.0)

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """US dollars of so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class PriceTable(NamedTuple):
    """as_of: year and month of the prices. prices: {model: price}."""

    as_of: str
    prices: dict[str, TokenPrice]


@cache
def price_table() -> PriceTable:
    """The table that is shipped."""
    text = resources.files("dselect_core.settings").joinpath("token_prices.json").read_text("utf-8")
    table = json.loads(text)
    prices = {name: TokenPrice(**price, batch=table["batch"]) for name, price in table["prices"].items()}
    return PriceTable(table["as_of"], prices)


def listed_price(model: str, base_url: str | None) -> TokenPrice | None:
    """The shipped price of a model behind an address (None: OpenAI's); None where the table has none for it.

    A dated version of a model has the price of the model, but where the table names it.
    """
    if base_url is not None and urlsplit(base_url).hostname != OPENAI_HOST:
        return None
    prices = price_table().prices
    return prices.get(model) or prices.get(_SNAPSHOT.sub("", model))
