"""The ledger that a page works in."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest

from payflow.admin import bounds
from payflow.admin.cells import LEDGER_PARAMETER, link


@dataclass(frozen=True, slots=True)
class LedgerScope:
    """The ledger of a request's list, and those that the filter offers.

    Where there is no ledger yet, ``id`` is one that none will have.
    """

    id: UUID
    choices: tuple[tuple[str, str], ...]

    @property
    def label(self) -> str:
        """The ledger's slug."""
        return dict(self.choices).get(str(self.id), "")


def parse_uuid(value: Any) -> UUID | None:
    """A full UUID, or ``None`` for anything else."""
    try:
        return UUID(str(value).strip())
    except ValueError:
        return None


def ledger_scope(request: HttpRequest) -> LedgerScope:
    """The ledger that ``?ledger=`` names, or the one with the latest transfer.

    Worked out once per request, by one or two queries.
    """
    cached: LedgerScope | None = getattr(request, "_payflow_ledger_scope", None)
    if cached is not None:
        return cached
    ledgers = apps.get_model("ledger", "Ledger")._default_manager
    latest = (
        apps.get_model("ledger", "Transfer")
        ._default_manager.filter(ledger_id=OuterRef("id"))
        .order_by("-id")
        .values("id")[:1]
    )
    rows = list(
        ledgers.order_by("-id").values_list("id", "slug", Subquery(latest))[
            : bounds.MAX_LEDGER_CHOICES
        ]
    )
    slugs = {id_: slug for id_, slug, _ in rows}
    chosen = parse_uuid(request.GET.get(LEDGER_PARAMETER, ""))
    if chosen is not None and chosen not in slugs:
        slugs.update(ledgers.filter(id=chosen).values_list("id", "slug"))
    if chosen is None and rows:
        chosen = max(rows, key=lambda row: (row[2] is not None, str(row[2])))[0]
    choices = sorted(((str(id_), slug) for id_, slug in slugs.items()), key=_by_slug)
    scope = LedgerScope(chosen or UUID(int=0), tuple(choices))
    request._payflow_ledger_scope = scope  # type: ignore[attr-defined]
    return scope


def _by_slug(choice: tuple[str, str]) -> str:
    return choice[1]


def all_ledger_ids() -> list[UUID]:
    """Every ledger, for what is looked up by id alone.

    The physical keys are ``(ledger_id, id)``: with the ledgers listed, an id costs one
    probe of the primary key per ledger, and without them a scan of the table.
    """
    ledgers = apps.get_model("ledger", "Ledger")._default_manager
    return list(ledgers.order_by().values_list("id", flat=True))


def ledger_link(ledger_id: UUID) -> str:
    """A link to a ledger, named by its slug."""
    ledgers = apps.get_model("ledger", "Ledger")._default_manager
    slug = ledgers.filter(id=ledger_id).values_list("slug", flat=True).first()
    return link("ledger.ledger", ledger_id, None, slug)
