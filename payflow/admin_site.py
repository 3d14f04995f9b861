"""The admin site: PayFlow's name on it, and nothing that writes to the ledger."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.apps import AdminConfig
from django.http import HttpRequest
from django.template.response import TemplateResponse

#: The order of the apps on the index; others follow by name.
_APP_ORDER = ("ledger", "outbox", "idempotency")


class PayFlowAdminSite(admin.AdminSite):
    """The back office."""

    site_header = "PayFlow"
    site_title = "PayFlow"
    index_title = "Back office"

    def get_app_list(
        self, request: HttpRequest, app_label: str | None = None
    ) -> list[Any]:
        """The apps and their models in the order in which people look for them."""
        app_list: list[Any] = super().get_app_list(request, app_label)
        for app in app_list:
            app["models"].sort(key=self._position_of_model)
            app["models"] += self._pages(request, app["models"])
        return sorted(app_list, key=_position_of_app)

    def _pages(
        self, request: HttpRequest, models: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Entries for pages that are no list of rows: ``index_pages`` names them."""
        admins: list[Any] = [self._registry.get(entry["model"]) for entry in models]
        return [
            {"name": name, "object_name": name, "admin_url": url, "view_only": True}
            for model_admin in admins
            if hasattr(model_admin, "index_pages")
            for name, url in model_admin.index_pages(request)
        ]

    def _position_of_model(self, entry: dict[str, Any]) -> tuple[int, str]:
        model_admin = self._registry.get(entry["model"])
        return getattr(model_admin, "index_position", 100), entry["name"]

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """The index, with the figures that tell whether all is well."""
        # At import time the registry of apps is not ready for it.
        from payflow.admin.figures import figures_of_index

        figures = figures_of_index(request)
        return super().index(request, {**(extra_context or {}), "figures": figures})


def _position_of_app(app: dict[str, Any]) -> tuple[int, str]:
    label = app["app_label"]
    known = label in _APP_ORDER
    return (_APP_ORDER.index(label) if known else len(_APP_ORDER)), app["name"]


class PayFlowAdminConfig(AdminConfig):
    """Makes :class:`PayFlowAdminSite` the admin's default site."""

    default_site = "payflow.admin_site.PayFlowAdminSite"
