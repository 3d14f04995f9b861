"""The API's paths."""

from django.urls import path, register_converter

from ledger.api.account_life import (
    AccountCloseView,
    AccountFreezeView,
    AccountHistoryView,
    AccountUnfreezeView,
)
from ledger.api.accounts import (
    AccountByReferenceView,
    AccountEntriesView,
    AccountListView,
    AccountView,
)
from ledger.api.assets import AssetListView, AssetView, CurrencyListView
from ledger.api.batches import TransferBatchView
from ledger.api.exchanges import ExchangeView
from ledger.api.holds import (
    HoldByReferenceView,
    HoldCaptureView,
    HoldDetailView,
    HoldExtendView,
    HoldListView,
    HoldVoidView,
)
from ledger.api.limits import AccountLimitsView
from ledger.api.me import MeView
from ledger.api.periods import PeriodCloseView, PeriodReopenView, PeriodsView
from ledger.api.reports import (
    BalanceSheetView,
    IncomeStatementView,
    TrialBalanceView,
)
from ledger.api.reversals import TransferReverseView
from ledger.api.scheduled import (
    ScheduledCancelView,
    ScheduledDetailView,
    ScheduledListView,
)
from ledger.api.statements import AccountBalanceView, AccountStatementView
from ledger.api.transfers import (
    TransferByReferenceView,
    TransferListView,
    TransferSeedView,
    TransferView,
)
from payflow.api.paths import AnyTextConverter

register_converter(AnyTextConverter, "any_text")

# Tried in this order. Paths without parameters are the most asked for; those by
# reference come before those by id, because a reference may look like the rest of any.
urlpatterns = [
    path("transfer", TransferSeedView.as_view()),
    path("v1/transfers", TransferListView.as_view()),
    path("v1/transfers/batch", TransferBatchView.as_view()),
    path("v1/holds", HoldListView.as_view()),
    path("v1/scheduled-transfers", ScheduledListView.as_view()),
    path("v1/periods", PeriodsView.as_view()),
    path("v1/periods/close", PeriodCloseView.as_view()),
    path("v1/periods/reopen", PeriodReopenView.as_view()),
    path("v1/accounts", AccountListView.as_view()),
    path("v1/reports/trial-balance", TrialBalanceView.as_view()),
    path("v1/reports/balance-sheet", BalanceSheetView.as_view()),
    path("v1/reports/income-statement", IncomeStatementView.as_view()),
    path("v1/exchanges", ExchangeView.as_view()),
    path("v1/assets", AssetListView.as_view()),
    path("v1/currencies", CurrencyListView.as_view()),
    path("v1/me", MeView.as_view()),
    path(
        "v1/accounts/by-reference/<any_text:reference>",
        AccountByReferenceView.as_view(),
    ),
    path(
        "v1/transfers/by-reference/<any_text:reference>",
        TransferByReferenceView.as_view(),
    ),
    path("v1/holds/by-reference/<any_text:reference>", HoldByReferenceView.as_view()),
    path("v1/transfers/<str:transfer_id>", TransferView.as_view()),
    path("v1/accounts/<str:account_id>", AccountView.as_view()),
    path("v1/accounts/<str:account_id>/entries", AccountEntriesView.as_view()),
    path("v1/accounts/<str:account_id>/balance", AccountBalanceView.as_view()),
    path("v1/accounts/<str:account_id>/statement", AccountStatementView.as_view()),
    path("v1/transfers/<str:transfer_id>/reverse", TransferReverseView.as_view()),
    path("v1/accounts/<str:account_id>/limits", AccountLimitsView.as_view()),
    path("v1/accounts/<str:account_id>/freeze", AccountFreezeView.as_view()),
    path("v1/accounts/<str:account_id>/unfreeze", AccountUnfreezeView.as_view()),
    path("v1/accounts/<str:account_id>/close", AccountCloseView.as_view()),
    path("v1/accounts/<str:account_id>/history", AccountHistoryView.as_view()),
    path("v1/holds/<str:hold_id>", HoldDetailView.as_view()),
    path("v1/holds/<str:hold_id>/capture", HoldCaptureView.as_view()),
    path("v1/holds/<str:hold_id>/void", HoldVoidView.as_view()),
    path("v1/holds/<str:hold_id>/extend", HoldExtendView.as_view()),
    path("v1/scheduled-transfers/<str:scheduled_id>", ScheduledDetailView.as_view()),
    path(
        "v1/scheduled-transfers/<str:scheduled_id>/cancel",
        ScheduledCancelView.as_view(),
    ),
    path("v1/assets/<str:code>", AssetView.as_view()),
]
