from django.urls import path

from metering.api import openai

urlpatterns = [
    path("dashboard/billing/subscription", openai.subscription),
    path("dashboard/billing/usage", openai.usage),
    path("models", openai.models),
]
