from django.urls import path

from metering.api import relay

urlpatterns = [
    path("authorizations", relay.authorizations),
    path("authorizations/<str:authorization_id>/release", relay.release),
    path("usage", relay.usage),
]
