"""The admin site: PayFlow's name on it, and nothing that writes to the ledger."""

from django.contrib import admin
from django.contrib.admin.apps import AdminConfig


class PayFlowAdminSite(admin.AdminSite):
    """The back office."""

    site_header = "PayFlow"
    site_title = "PayFlow"
    index_title = "Back office"


class PayFlowAdminConfig(AdminConfig):
    """Makes :class:`PayFlowAdminSite` the admin's default site."""

    default_site = "payflow.admin_site.PayFlowAdminSite"
