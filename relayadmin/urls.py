from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from billing import return_page, webhooks
from relayadmin import celery, health, metrics

# Pages that schedule a task find this application, whichever thread they run in.
celery.app.set_default()

urlpatterns = [
    # A relay waits for these: they are looked for first.
    path("relay/v1/", include("metering.api.relay_urls")),
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("payments/return", return_page.payments_return, name="payments-return"),
    path("payments/card", return_page.card_return, name="payments-card"),
    path("api/v1/", include("billing.api.urls")),
    path("api/v1/", include("metering.api.customer_urls")),
    path("v1/", include("metering.api.openai_urls")),
    path("webhooks/stripe", webhooks.stripe),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", metrics.metrics),
]
