from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from relayadmin import health

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("relay/v1/", include("metering.api.relay_urls")),
    path("api/v1/", include("billing.api.urls")),
    path("api/v1/", include("metering.api.customer_urls")),
    path("v1/", include("metering.api.openai_urls")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
]
