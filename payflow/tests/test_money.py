"""Currencies, texts of amounts and rates, splitting and converting."""

import doctest
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import iso4217
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payflow.money import (
    MAX_AMOUNT,
    WITHDRAWN_CURRENCIES,
    convert_amount,
    currency_exponent,
    format_amount,
    format_rate,
    is_iso_code,
    iso_currencies,
    parse_amount,
    parse_rate,
    split_amount,
)

amounts = st.integers(-MAX_AMOUNT, MAX_AMOUNT)
ratio_lists = st.lists(
    st.integers(0, 10**6) | st.fractions(0, 1000, max_denominator=10**6),
    min_size=1,
    max_size=12,
).filter(any)


# --- Currencies -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exponent"),
    [
        *(("USD", 2), ("EUR", 2), ("XCG", 2), ("ZWG", 2)),
        *(("JPY", 0), ("KRW", 0), ("XAF", 0)),
        *(("BHD", 3), ("KWD", 3)),
        *(("CLF", 4), ("UYW", 4)),
    ],
)
def test_a_current_currency_has_the_exponent_of_iso_4217(code, exponent):
    assert currency_exponent(code) == exponent


@pytest.mark.parametrize(
    "code", ["XAU", "XDR", "XXX", "XTS", "DEM", "HRK", "BGN", "usd", "US", "", "840"]
)
def test_what_has_no_minor_unit_or_is_not_current_has_no_exponent(code):
    assert currency_exponent(code) is None


@pytest.mark.parametrize("code", ["USD", "CLF", "XAU", "XXX", "DEM", "HRK", "BGN"])
def test_that_iso_4217_keeps_its_codes_for_itself(code):
    assert is_iso_code(code)


@pytest.mark.parametrize("code", ["PTS", "BTC", "GOLD", "usd", ""])
def test_other_codes_are_free_for_assets(code):
    assert not is_iso_code(code)


def test_the_currencies_are_listed_by_code():
    codes = [currency.code for currency in iso_currencies()]

    assert codes == sorted(codes)
    assert len(codes) == 165
    assert {currency.exponent for currency in iso_currencies()} == {0, 2, 3, 4}


def test_that_the_withdrawn_codes_are_those_of_the_package_s_date():
    # When this fails after an upgrade of iso4217: add the codes that its table lost,
    # and keep the exponents of those that books may hold (docs/currencies.md).
    assert iso4217.__published__ == date(2026, 1, 1)
    assert len(iso4217.Currency) == 178
    assert not WITHDRAWN_CURRENCIES & {c.code for c in iso4217.Currency}
    assert len(WITHDRAWN_CURRENCIES) == 129


# --- Texts ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (-123456, "USD", "-1,234.56 USD"),
        (5, "USD", "0.05 USD"),
        (0, "USD", "0.00 USD"),
        (1234, "JPY", "1,234 JPY"),
        (1234, "KWD", "1.234 KWD"),
        (1, "CLF", "0.0001 CLF"),
        (1234, "PTS", "1,234 PTS"),
    ],
)
def test_an_amount_reads_as_people_write_it(amount, currency, text):
    assert format_amount(amount, currency) == text


def test_an_asset_s_exponent_goes_before_iso_4217_s():
    assert format_amount(150_000_000, "BTC", 8) == "1.50000000 BTC"
    assert format_amount(1234, "PTS", 0) == "1,234 PTS"
    assert format_amount(1234, "USD", 0) == "1,234 USD"


@pytest.mark.parametrize(
    ("text", "exponent", "minor"),
    [
        ("12.34", 2, 1234),
        ("12.3", 2, 1230),
        ("12", 2, 1200),
        ("-0.05", 2, -5),
        ("0", 0, 0),
        ("1234", 0, 1234),
        ("0.001", 3, 1),
        ("90071992547409.91", 2, MAX_AMOUNT),
    ],
)
def test_a_decimal_is_read_exactly(text, exponent, minor):
    assert parse_amount(text, exponent) == minor


@pytest.mark.parametrize(
    ("text", "exponent"),
    [
        *(("12.345", 2), ("12.340", 2), ("1.0", 0), ("", 2), (".5", 2), ("5.", 2)),
        *(("1,000", 2), ("1e3", 2), ("+1", 2), (" 1", 2), ("1\n", 2), ("٣", 0)),
        *(("NaN", 2), ("--1", 2), ("1.2.3", 2)),
    ],
)
def test_what_is_no_exact_amount_is_refused(text, exponent):
    with pytest.raises(ValueError, match=r"no amount|decimals"):
        parse_amount(text, exponent)


@settings(deadline=None)
@given(amounts, st.integers(0, 8))
def test_that_what_is_formatted_reads_back(amount, exponent):
    number, _ = format_amount(amount, "PTS", exponent).split()

    assert parse_amount(number.replace(",", ""), exponent) == amount


# --- Rates ------------------------------------------------------------------------

LONGEST_RATE = "12345678901234567890.123456789012345679"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1.0825", "1.0825"),
        ("1.08250", "1.0825"),
        ("1", "1"),
        ("100", "100"),
        ("100.00", "100"),
        ("0.000000000000000001", "0.000000000000000001"),
        (LONGEST_RATE, LONGEST_RATE),
    ],
)
def test_a_rate_keeps_every_digit(text, shown):
    assert format_rate(parse_rate(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("0", "0.0", "-1", "+1", "1e3", "1.", ".5", "01.5", "1,5", "", " 1", "NaN"),
        *("٣", "0.0000000000000000001", "123456789012345678901", "1" + "0" * 5_000),
    ],
)
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match=r"decimal|greater"):
        parse_rate(text)


# --- Converting -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "rate", "exponents", "expected"),
    [
        (10_000, "1.0825", (2, 2), 10_825),  # 100.00 EUR -> 108.25 USD
        (10_000, "149.53", (2, 0), 14_953),  # 100.00 USD -> 14,953 JPY
        (14_953, "0.0066876", (0, 2), 10_000),  # JPY -> USD
        (10_000, "0.30745", (2, 3), 30_745),  # 100.00 USD -> 30.745 KWD
        (30_745, "3.2526", (3, 2), 10_000),  # KWD -> USD
        (1_000, "485.5", (3, 0), 486),  # halves go to the even neighbour:
        (1_000, "486.5", (3, 0), 486),
        (1, "0.5", (2, 2), 0),
        (1, "1.5", (2, 2), 2),
        (3, "0.5", (2, 2), 2),
        (5, "0.5", (2, 2), 2),
        (1, "0.500000000000000001", (2, 2), 1),
        (100, "0.00001", (2, 8), 1_000),  # 1.00 USD -> 0.00001 BTC
        (100_000_000, "98765.4321", (8, 2), 9_876_543),  # 1 BTC -> USD
        (1, "0.000000000000000001", (0, 8), 0),
    ],
)
def test_an_amount_is_converted_and_rounded_once(amount, rate, exponents, expected):
    source, target = exponents

    converted = convert_amount(
        amount, Decimal(rate), from_exponent=source, to_exponent=target
    )

    assert converted == expected


# --- Splitting --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "ratios", "parts"),
    [
        (100, [1, 1, 1], [34, 33, 33]),
        (5, [7, 3], [4, 1]),  # 3.5 and 1.5: equal remainders, the earlier first
        (101, [70, 30], [71, 30]),
        (1, [0, 0, 1], [0, 0, 1]),
        (0, [1, 2], [0, 0]),
        (-100, [1, 1, 1], [-34, -33, -33]),
        (10, [Fraction(1, 3), Fraction(2, 3)], [3, 7]),
        (2, [1, 1, 1, 1], [1, 1, 0, 0]),
        (MAX_AMOUNT, [1], [MAX_AMOUNT]),
    ],
)
def test_a_split_is_by_largest_remainder(amount, ratios, parts):
    assert split_amount(amount, ratios) == parts


@pytest.mark.parametrize("ratios", [[], [0], [0, 0], [1, -1], [Fraction(-1, 2)]])
def test_ratios_that_say_nothing_are_refused(ratios):
    with pytest.raises(ValueError, match="ratio"):
        split_amount(100, ratios)


@pytest.mark.parametrize("ratio", [0.5, Decimal("0.5"), "1", True, None])
def test_a_ratio_that_is_not_exact_is_refused(ratio):
    with pytest.raises(TypeError, match="exact"):
        split_amount(100, [1, ratio])


@settings(deadline=None)
@given(amounts, ratio_lists)
def test_that_a_split_neither_loses_nor_makes_money(amount, ratios):
    parts = split_amount(amount, ratios)

    assert sum(parts) == amount
    for part, ratio in zip(parts, ratios, strict=True):
        share = Fraction(amount) * ratio / sum(ratios)
        assert abs(part - share) < 1
        if ratio == 0:
            assert part == 0


@settings(deadline=None)
@given(amounts, ratio_lists)
def test_that_a_negative_amount_is_split_as_the_positive_one(amount, ratios):
    assert split_amount(-amount, ratios) == [-p for p in split_amount(amount, ratios)]


@settings(deadline=None)
@given(st.integers(0, MAX_AMOUNT), ratio_lists)
def test_that_a_larger_ratio_never_gets_less(amount, ratios):
    parts = split_amount(amount, ratios)

    ranked = sorted(zip(ratios, parts, strict=True))
    assert [part for _, part in ranked] == sorted(parts)


@settings(deadline=None)
@given(amounts, ratio_lists, st.fractions("1/1000", 1000))
def test_that_only_the_proportions_of_ratios_count(amount, ratios, factor):
    scaled = [ratio * factor for ratio in ratios]

    assert split_amount(amount, scaled) == split_amount(amount, ratios)


@settings(deadline=None)
@given(st.data(), st.integers(0, MAX_AMOUNT), ratio_lists)
def test_that_order_decides_only_between_equal_remainders(data, amount, ratios):
    order = data.draw(st.permutations(range(len(ratios))))
    shuffled = [ratios[index] for index in order]

    def left_over(ratios: list[Fraction]) -> list[tuple[Fraction, int]]:
        """Each remainder, with the unit that it got or not."""
        shares = [Fraction(amount) * ratio / sum(ratios) for ratio in ratios]
        parts = split_amount(amount, ratios)
        return [(s % 1, p - s // 1) for s, p in zip(shares, parts, strict=True)]

    assert sorted(left_over(shuffled)) == sorted(left_over(ratios))
    for remainder in {remainder for remainder, _ in left_over(ratios)}:
        units = [unit for other, unit in left_over(ratios) if other == remainder]
        assert units == sorted(units, reverse=True)


def test_that_the_examples_in_the_docs_are_true():
    page = Path(__file__).resolve().parents[2] / "docs" / "currencies.md"

    result = doctest.testfile(str(page), module_relative=False)

    assert result.failed == 0
    assert result.attempted >= 5
