"""Audits and the integrity of the books."""

from collections.abc import Iterable

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse

from ledger.admin.changes import value_text
from ledger.models import AuditRun, IntegrityStatus
from ledger.services.integrity import integrity_get
from payflow.admin.cells import Table, badge, can_view, instant_column, json_column
from payflow.admin.figures import Figure, index_figures
from payflow.admin.read_only import ReadOnlyModelAdmin

#: Findings of an audit that its page shows.
MAX_FINDINGS = 100


@index_figures(10)
def integrity_figures(request: HttpRequest) -> Iterable[Figure]:
    """Whether the books balance, and what the last audit found: two rows."""
    if can_view(request, "ledger.integritystatus"):
        integrity = integrity_get()
        status = IntegrityStatus.objects.filter(id=1).first()
        computed = f"{status.computed_at:%Y-%m-%d %H:%M:%S} UTC" if status else "never"
        yield Figure(
            "Ledger integrity",
            "Healthy" if integrity.is_healthy else "Unhealthy",
            "good" if integrity.is_healthy else "bad",
            f"sum of differences {integrity.integrity_sum:,}, computed {computed}",
        )
    if can_view(request, "ledger.auditrun"):
        run = AuditRun.objects.defer("counts").order_by("-id").first()
        if run is None:
            yield Figure("Last audit", "None yet", "warn", "manage.py audit_ledger")
        else:
            yield Figure(
                "Last audit",
                "Sound" if run.is_sound else f"Broken: {len(run.findings):,} found",
                "good" if run.is_sound else "bad",
                f"finished {run.finished_at:%Y-%m-%d %H:%M:%S} UTC",
                reverse("admin:ledger_auditrun_change", args=[run.id]),
            )


@admin.register(AuditRun)
class AuditRunAdmin(ReadOnlyModelAdmin):
    """Audits and what they found."""

    in_ledger = False
    index_position = 11
    list_display = ("finished", "result", "difference_shown", "duration")
    list_defer = ("counts", "findings")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "result",
                    "difference_shown",
                    ("started", "finished", "duration"),
                    "id",
                )
            },
        ),
        ("What was checked", {"fields": ("counts_text",)}),
    )
    started = instant_column("started_at", "started")
    finished = instant_column("finished_at", "finished")
    counts_text = json_column("counts", "counts")

    @admin.display(description="result")
    def result(self, run: AuditRun) -> str:
        """Sound or broken."""
        return badge("Sound", "good") if run.is_sound else badge("Broken", "bad")

    @admin.display(description="difference, minor units of every currency")
    def difference_shown(self, run: AuditRun) -> str:
        """The absolute differences; over currencies, so none can be named."""
        return f"{int(run.difference):,}"

    @admin.display(description="took")
    def duration(self, run: AuditRun) -> str:
        """How long it ran."""
        return f"{(run.finished_at - run.started_at).total_seconds():,.1f} s"

    def tables(self, request: HttpRequest, obj: AuditRun) -> Iterable[Table]:
        """The findings, the first ``MAX_FINDINGS``."""
        shown = obj.findings[:MAX_FINDINGS]
        more = len(obj.findings) - len(shown)
        title = "Findings" + (f" (and {more:,} more)" if more > 0 else "")
        yield Table(
            title,
            ("#", "Finding"),
            [
                (number, value_text(finding))
                for number, finding in enumerate(shown, start=1)
            ],
            empty="None: every invariant holds.",
        )
