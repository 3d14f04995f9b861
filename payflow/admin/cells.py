"""How values, links and tables look."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.text import Truncator

from payflow.admin import bounds
from payflow.clock import format_instant
from payflow.money import currency_exponent, format_amount

LEDGER_PARAMETER = "ledger"
EMPTY = "–"  # noqa: RUF001 - a dash is how an empty cell looks


@lru_cache(maxsize=1_000)
def _asset_exponent(ledger_id: UUID, code: str) -> int | None:
    """The decimals of an asset; ``None`` for a currency of ISO 4217.

    Kept for the life of the process: an asset never changes, and a code of ISO 4217
    never becomes one.

    Raises:
        LookupError: it is neither, yet; that is not kept.
    """
    assets = apps.get_model("ledger", "Asset")._default_manager
    found: int | None = (
        assets.filter(ledger_id=ledger_id, code=code)
        .values_list("exponent", flat=True)
        .first()
    )
    if found is None and currency_exponent(code) is None:
        raise LookupError(code)
    return found


def money(
    amount: int | None, currency: str | None, ledger_id: UUID | None = None
) -> str:
    """An amount with separators and currency, set in tabular figures.

    Args:
        amount: minor units; ``None`` is shown as empty.
        currency: of ISO 4217, or an asset of the ledger.
        ledger_id: the ledger, whose assets have decimals of their own.
    """
    if amount is None or currency is None:
        return EMPTY
    exponent = None
    if ledger_id is not None:
        with suppress(LookupError):
            exponent = _asset_exponent(ledger_id, currency)
    return format_html(
        '<span class="money {}">{}</span>',
        "negative" if amount < 0 else "zero" if amount == 0 else "positive",
        format_amount(amount, currency, exponent),
    )


def instant(value: datetime | None) -> str:
    """An instant to the second, in UTC; the exact one is its tooltip."""
    if value is None:
        return EMPTY
    return format_html(
        '<time datetime="{0}" title="{0}">{1} <span class="unit">UTC</span></time>',
        format_instant(value),
        f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
    )


def badge(text: str, tone: str = "plain") -> str:
    """A word in a coloured box; ``tone`` is good, warn, bad or plain."""
    return format_html('<span class="badge {}">{}</span>', tone, text)


def short(value: Any, characters: int = 60) -> str:
    """A text cut to what a table cell can hold; the whole is its tooltip."""
    text = str(value or "")
    if not text:
        return EMPTY
    if len(text) <= characters:
        return text
    cut = Truncator(text).chars(characters)
    return format_html('<span title="{}">{}</span>', text[:1000], cut)


def short_id(value: UUID | None) -> str:
    """The end of an id, where ids of the same time differ; the whole is its tooltip."""
    if value is None:
        return EMPTY
    return format_html('<code title="{}">…{}</code>', value, str(value)[-12:])


def pretty_json(value: Any) -> str:
    """A JSON document, indented, at most ``MAX_TEXT_CHARACTERS`` of it."""
    if value in (None, {}, []):
        return EMPTY
    return long_text(json.dumps(value, indent=2, ensure_ascii=False))


def long_text(text: str) -> str:
    """A text as it stands, at most ``MAX_TEXT_CHARACTERS`` of it."""
    note = ""
    if len(text) > bounds.MAX_TEXT_CHARACTERS:
        note = f"\n… and {len(text) - bounds.MAX_TEXT_CHARACTERS:,} characters more"
    return format_html(
        '<pre class="text">{}</pre>', text[: bounds.MAX_TEXT_CHARACTERS] + note
    )


def link(
    model: str, object_id: UUID | None, ledger_id: UUID | None, text: Any = None
) -> str:
    """A link to the page of one object.

    It carries the ledger, so that the page finds the row by its physical key.

    Args:
        model: ``"ledger.transfer"``.
        object_id: the object; ``None`` is shown as empty.
        ledger_id: the object's ledger; ``None`` for what belongs to none.
        text: what to show; by default the end of the id.
    """
    if object_id is None:
        return EMPTY
    url = reverse(f"admin:{model.replace('.', '_')}_change", args=[object_id])
    if ledger_id is not None:
        url = f"{url}?{urlencode({LEDGER_PARAMETER: ledger_id})}"
    return format_html('<a href="{}">{}</a>', url, text or short_id(object_id))


def list_url(model: str, ledger_id: UUID, **parameters: Any) -> str:
    """The address of a list inside one ledger, narrowed by ``parameters``."""
    url = reverse(f"admin:{model.replace('.', '_')}_changelist")
    return f"{url}?{urlencode({LEDGER_PARAMETER: ledger_id, **parameters})}"


def list_link(model: str, ledger_id: UUID, text: str, **parameters: Any) -> str:
    """A link to a list inside one ledger, narrowed by ``parameters``."""
    return format_html(
        '<a href="{}">{}</a>', list_url(model, ledger_id, **parameters), text
    )


def can_view(request: HttpRequest, model: str) -> bool:
    """Whether the user may see objects of ``model`` (``"ledger.transfer"``)."""
    app_label, _, name = model.partition(".")
    user: Any = request.user
    return bool(user.has_perm(f"{app_label}.view_{name}"))


def instant_column(field: str, description: str) -> Callable[[Any, Any], str]:
    """A read-only column or field that shows the instant in ``field``."""

    @admin.display(description=description)
    def column(self: Any, row: Any) -> str:
        return instant(getattr(row, field))

    return column


def json_column(field: str, description: str) -> Callable[[Any, Any], str]:
    """A read-only field that shows the JSON document in ``field``."""

    @admin.display(description=description)
    def column(self: Any, row: Any) -> str:
        return pretty_json(getattr(row, field))

    return column


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of other objects on an object's page.

    ``columns`` that hold numbers start with ``#``, which is not shown.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    empty: str = "None."
    more_url: str = ""
    more_label: str = ""

    @property
    def headers(self) -> list[tuple[str, bool]]:
        """Each column's name, and whether it holds numbers."""
        return [(name.removeprefix("#"), name.startswith("#")) for name in self.columns]

    @property
    def cells(self) -> list[list[tuple[Any, bool]]]:
        """Each row's cells, and whether they hold numbers."""
        are_numbers = [is_number for _, is_number in self.headers]
        return [list(zip(row, are_numbers, strict=True)) for row in self.rows]
