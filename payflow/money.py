"""Money: an integer count of a currency's minor units, never a float.

Currencies and their exponents are ISO 4217's, from the ``iso4217`` package. A ledger
may define assets beside them, with exponents of their own: this module does not know
those, so its functions take exponents as arguments (``ledger.selectors.assets``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache

from iso4217 import Currency

#: The largest amount and the largest absolute balance, 2^53 - 1: beyond it a JSON
#: client that reads numbers as doubles (RFC 8259, section 6) would round money.
MAX_AMOUNT = 2**53 - 1

#: The largest total that a counter of a lifetime may reach: what the database allows.
MAX_COUNTER = 9_000_000_000_000_000_000
#: What an exchange rate can be: the digits of PostgreSQL's ``numeric(38, 18)``.
MAX_RATE_INTEGER_DIGITS = 20
MAX_RATE_DECIMALS = 18

_RATE = re.compile(
    rf"(0|[1-9][0-9]{{0,{MAX_RATE_INTEGER_DIGITS - 1}}})"
    rf"(\.[0-9]{{1,{MAX_RATE_DECIMALS}}})?"
)
_DECIMAL = re.compile(r"(?P<sign>-?)(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?")

_WITHDRAWN = """
ADP AFA ALK ANG AOK AON AOR ARA ARP ARY ATS AYM AZM BAD BEC BEF BEL BGJ BGK BGL BGN
BOP BRB BRC BRE BRN BRR BUK BYB BYR CHC CSD CSJ CSK CUC CYP DDM DEM ECS ECV EEK ESA
ESB ESP FIM FRF GEK GHC GHP GNE GNS GQE GRD GWE GWP HRD HRK IEP ILP ILR ISJ ITL LAJ
LSM LTL LTT LUC LUF LUL LVL LVR MGF MLF MRO MTL MTP MVQ MXP MZE MZM NIC NLG PEH PEI
PES PLZ PTE RHD ROK ROL RUR SDD SDP SIT SKK SLL SRG STD SUR TJR TMM TPE TRL UAK UGS
UGW USS UYN UYP VEB VEF VNC XEU XFO XFU XRE YDD YUD YUM YUN ZAL ZMK ZRN ZRZ ZWC ZWD
ZWL ZWN ZWR
"""
#: The codes that ISO 4217 has withdrawn and not given out again: its list three of
#: 2026-01-01, without what is also in list one. The package has the current ones only.
WITHDRAWN_CURRENCIES = frozenset(_WITHDRAWN.split())


@dataclass(frozen=True, slots=True)
class IsoCurrency:
    """A current currency of ISO 4217 with a minor unit.

    ``exponent`` is the number of decimals of that unit: 2 for ``USD``, 0 for ``JPY``.
    """

    code: str
    name: str
    exponent: int


@cache
def iso_currencies() -> tuple[IsoCurrency, ...]:
    """The currencies that accounts may be kept in without an asset, by code.

    Those without a minor unit are none of them: of gold (``XAU``) or special drawing
    rights (``XDR``) ISO 4217 does not say what an integer would count, and ``XXX`` and
    ``XTS`` stand for no currency at all.
    """
    return tuple(
        IsoCurrency(currency.code, currency.currency_name, currency.exponent)
        for currency in sorted(Currency, key=lambda currency: currency.code)
        if currency.exponent is not None
    )


@cache
def _exponents() -> dict[str, int]:
    return {currency.code: currency.exponent for currency in iso_currencies()}


def currency_exponent(code: str) -> int | None:
    """The number of decimals of a currency's minor unit.

    Args:
        code: an ISO 4217 alphabetic code, for instance ``"USD"`` (2) or ``"JPY"`` (0).

    Returns:
        ``None`` for what is not among :func:`iso_currencies`.
    """
    return _exponents().get(code)


def is_iso_code(code: str) -> bool:
    """Whether ISO 4217 gives the code a meaning, or once did.

    Also of codes that no account can be kept in, such as ``XAU`` and ``DEM``.
    """
    return code in WITHDRAWN_CURRENCIES or code in {c.code for c in Currency}


def format_amount(amount: int, currency: str, exponent: int | None = None) -> str:
    """An amount for people: ``format_amount(-123456, "USD")`` is ``"-1,234.56 USD"``.

    Args:
        amount: minor units.
        currency: the code.
        exponent: the currency's, for assets; by default ISO 4217's. Without either,
            whole minor units are shown.
    """
    if exponent is None:
        exponent = currency_exponent(currency) or 0
    whole, fraction = divmod(abs(amount), 10**exponent)
    decimals = f".{fraction:0{exponent}d}" if exponent else ""
    sign = "-" if amount < 0 else ""
    return f"{sign}{whole:,}{decimals} {currency}"


def parse_amount(text: str, exponent: int) -> int:
    """The minor units that a decimal says: ``parse_amount("-12.34", 2)`` is ``-1234``.

    Args:
        text: digits with an optional sign ``-`` and a point; no separators.
        exponent: the currency's.

    Raises:
        ValueError: it is no such decimal, or has more decimals than the currency.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no amount: write it as 1234 or 1234.56.")
    fraction = match["fraction"] or ""
    if len(fraction) > exponent:
        raise ValueError(f"{text!r} has more than {exponent} decimals.")
    minor = int(match["whole"] + fraction.ljust(exponent, "0"))
    return -minor if match["sign"] else minor


def split_amount(amount: int, ratios: Sequence[int | Fraction]) -> list[int]:
    """Splits an amount by ratios, so that not one minor unit is lost or made.

    Each part is its exact share rounded down, and the units that are left over go, one
    each, to the largest remainders; of equal ones, to the earlier (the method of
    Hamilton). A negative amount is split as the positive one and negated.

    Args:
        amount: minor units.
        ratios: exact and not negative, in any unit: ``[1, 1, 1]`` or ``[70, 30]``.

    Returns:
        One part for each ratio, in their order; their sum is ``amount``, and the part
        of a ratio of zero is zero.

    Raises:
        ValueError: no ratio, a negative one, or none above zero.
        TypeError: a ratio that is not exact, such as a float.
    """
    for ratio in ratios:
        if isinstance(ratio, bool) or not isinstance(ratio, int | Fraction):
            raise TypeError(f"{ratio!r} is no exact ratio: use int or Fraction")
        if ratio < 0:
            raise ValueError(f"{ratio} is a negative ratio")
    total = sum(ratios)
    if total == 0:
        raise ValueError("at least one ratio above zero is needed")
    shares = [Fraction(abs(amount)) * ratio / total for ratio in ratios]
    parts = [share.numerator // share.denominator for share in shares]
    left = abs(amount) - sum(parts)
    # A stable sort, so that of equal remainders the earlier comes first.
    by_remainder = sorted(range(len(parts)), key=lambda i: parts[i] - shares[i])
    for index in by_remainder[:left]:
        parts[index] += 1
    return [-part for part in parts] if amount < 0 else parts


def convert_amount(
    amount: int, rate: Decimal, *, from_exponent: int, to_exponent: int
) -> int:
    """What an amount is worth in another currency, rounded half to even, once.

    Args:
        amount: minor units of the sold currency.
        rate: units of the bought currency for one unit of the sold one.
        from_exponent, to_exponent: of the sold and of the bought currency.

    Returns:
        Minor units of the bought currency.
    """
    exact = amount * Fraction(rate) * Fraction(10) ** (to_exponent - from_exponent)
    return round(exact)


def parse_rate(text: str) -> Decimal:
    """An exchange rate from its exact decimals: ``"1.0825"``.

    Raises:
        ValueError: it is no positive decimal within the limits; the message says why.
    """
    if _RATE.fullmatch(text) is None:
        raise ValueError(
            f"A decimal as 1.0825: up to {MAX_RATE_INTEGER_DIGITS} digits before the"
            f" point and {MAX_RATE_DECIMALS} after it."
        )
    rate = Decimal(text)
    if rate == 0:
        raise ValueError("A rate is greater than zero.")
    return rate


def format_rate(rate: Decimal) -> str:
    """An exchange rate as its exact decimals, without trailing zeros: ``"1.0825"``."""
    # Not normalize(), which rounds to the context's 28 digits; a rate may have 38.
    text = f"{rate:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
