"""Every path: the API, the health checks, the admin."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

import ledger.api.urls
from ledger.api.health import health
from payflow import pages
from payflow.api.plain import plain_view
from payflow.health import livez, readyz
from payflow.metrics_page import metrics

urlpatterns = [
    path("", plain_view(pages.root)),
    *ledger.api.urls.urlpatterns,
    path("health", plain_view(health)),
    path("livez", plain_view(livez)),
    path("readyz", plain_view(readyz)),
    path("metrics", plain_view(metrics)),
    path("problems", plain_view(pages.problem_index)),
    path("problems/<str:code>", plain_view(pages.problem)),
    path("admin", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
]

handler400 = "payflow.api.exception_handler.handler400"
handler404 = "payflow.api.exception_handler.handler404"
handler500 = "payflow.api.exception_handler.handler500"
