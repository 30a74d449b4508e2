from django.urls import path

from metering.api import customer_keys, customer_limits, customer_prices, customer_usage

urlpatterns = [
    path("api-keys", customer_keys.ApiKeysView.as_view()),
    path("api-keys/<slug:api_key_id>", customer_keys.ApiKeyView.as_view()),
    path("spend-limits", customer_limits.SpendLimitsView.as_view()),
    path("usage", customer_usage.UsageView.as_view()),
    path("usage/events", customer_usage.UsageEventsView.as_view()),
    path("prices", customer_prices.PricesView.as_view()),
]
