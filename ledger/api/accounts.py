"""``/v1/accounts`` and what lies under it."""

from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from ledger.api.authentication import actor_of
from ledger.api.finding import read_account_filters, read_entry_filters
from ledger.api.resources import (
    account_json,
    entry_json,
    read_account,
    read_account_changes,
)
from ledger.api.views import ApiView, path_id
from ledger.selectors.accounts import (
    account_get,
    account_get_by_reference,
    account_list,
)
from ledger.selectors.entries import entry_list
from ledger.services.accounts import account_create, account_update
from payflow.errors import ProblemError

LOCATION = "/v1/accounts/{id}"
_MISSING = "There is no such account in this ledger."


class AccountListView(ApiView):
    """POST makes an account, GET lists the ledger's accounts, newest first."""

    query_parameters = None

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "POST": ("account.create", False)
    }

    def post(self, request: Request) -> HttpResponse:
        """Makes an account."""
        wanted = read_account(self.body())
        return self.run(
            lambda: account_create(ledger_id=request.user.ledger_id, request=wanted),
            account_json,
            status=201,
            resource_type="account",
            location=LOCATION,
        )

    def get(self, request: Request) -> Response:
        """A page of accounts."""
        return self.keyset_page(
            account_list,
            account_json,
            kind="accounts",
            read_filters=read_account_filters,
        )


class AccountByReferenceView(ApiView):
    """One account, by its reference."""

    def get(self, request: Request, reference: str) -> Response:
        """The account with its balance."""
        account = account_get_by_reference(
            ledger_id=request.user.ledger_id, reference=reference
        )
        return Response(account_json(account))


class AccountView(ApiView):
    """One account."""

    operations: ClassVar[dict[str, tuple[str, bool]]] = {
        "PATCH": ("account.update", False)
    }

    def get(self, request: Request, account_id: str) -> Response:
        """The account with its balance."""
        account = account_get(
            ledger_id=request.user.ledger_id,
            account_id=path_id(account_id, problem=_missing()),
        )
        return Response(account_json(account))

    def patch(self, request: Request, account_id: str) -> HttpResponse:
        """Changes the fields that are given; the history keeps each change."""
        changes = read_account_changes(self.body())
        wanted_id = path_id(account_id, problem=_missing())
        return self.run(
            lambda: account_update(
                ledger_id=request.user.ledger_id,
                account_id=wanted_id,
                changes=changes,
                actor=actor_of(request._request),
            ),
            account_json,
            status=200,
            resource_type="account",
            location=LOCATION,
        )


class AccountEntriesView(ApiView):
    """The entries of one account, newest first."""

    query_parameters = None

    def get(self, request: Request, account_id: str) -> Response:
        """A page of entries, each with the balance after it."""
        account = account_get(
            ledger_id=request.user.ledger_id,
            account_id=path_id(account_id, problem=_missing()),
        )
        return self.keyset_page(
            partial(entry_list, account_id=account.id),
            partial(entry_json, account=account),
            kind="entries",
            read_filters=read_entry_filters,
        )


def _missing() -> ProblemError:
    return ProblemError("account_not_found", _MISSING)


def account_rebuild(
    *, ledger_id: UUID, resource_id: UUID
) -> tuple[dict[str, Any], str]:
    """Resource and path of an account, for a key whose stored response was purged."""
    resource = account_json(account_get(ledger_id=ledger_id, account_id=resource_id))
    return resource, LOCATION.format(id=resource_id)
