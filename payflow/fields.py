"""Relations between tables whose physical keys are ``(ledger_id, id)``."""

from typing import Any

from django.db import models


class LedgerForeignKey(models.ForeignObject):  # type: ignore[type-arg]
    """A relation over ``(ledger_id, <x>_id)`` to ``(ledger_id, id)``.

    Every JOIN that the ORM makes over it carries both columns, so that a query stays
    inside one ledger (and, on Citus, inside one shard). The column ``<x>_id`` and the
    foreign key itself are declared apart: the column as a ``UUIDField`` of the model,
    the constraint in SQL, because Django cannot write a composite one.

    Args:
        to: the model that is referred to, as ``"app.Model"``.
        column: the name of the local id field; by default ``<field name>_id``.
    """

    def __init__(
        self, to: Any, *, column: str, related_name: str = "+", **kwargs: Any
    ) -> None:
        self._column_name = column
        kwargs.setdefault("on_delete", models.PROTECT)
        kwargs["from_fields"] = ("ledger_id", column)
        kwargs["to_fields"] = ("ledger_id", "id")
        super().__init__(to, related_name=related_name, **kwargs)

    def deconstruct(self) -> tuple[str, str, Any, dict[str, Any]]:
        name, path, args, kwargs = super().deconstruct()
        kwargs.pop("from_fields", None)
        kwargs.pop("to_fields", None)
        kwargs["column"] = self._column_name
        return name, path, args, kwargs
