"""Money: an integer count of a currency's minor units, never a float.

Currencies and their exponents are ISO 4217's, from the ``iso4217`` package.
"""

from decimal import Decimal
from functools import cache

from iso4217 import Currency

#: The largest amount and the largest absolute balance, 2^53 - 1: beyond it a JSON
#: client that reads numbers as doubles (RFC 8259, section 6) would round money.
MAX_AMOUNT = 2**53 - 1


@cache
def currency_exponent(code: str) -> int | None:
    """The number of decimals of a currency's minor unit, or ``None`` if unknown.

    Args:
        code: an ISO 4217 alphabetic code, for instance ``"USD"`` (2) or ``"JPY"`` (0).
    """
    try:
        return Currency(code).exponent or 0
    except ValueError:
        return None


def format_amount(amount: int, currency: str) -> str:
    """An amount for people: ``format_amount(-123456, "USD")`` is ``"-1,234.56 USD"``.

    Args:
        amount: minor units.
        currency: ISO 4217 code; an unknown one is shown in whole minor units.
    """
    exponent = currency_exponent(currency) or 0
    whole, fraction = divmod(abs(amount), 10**exponent)
    decimals = f".{fraction:0{exponent}d}" if exponent else ""
    sign = "-" if amount < 0 else ""
    return f"{sign}{whole:,}{decimals} {currency}"


def format_rate(rate: Decimal) -> str:
    """An exchange rate as exact decimals without an exponent: ``"1.0825"``."""
    return f"{rate.normalize():f}"
