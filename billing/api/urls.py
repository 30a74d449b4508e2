from django.urls import path
from drf_spectacular.views import SpectacularSwaggerView

from billing.api import (
    billing_profile,
    credit_notes,
    invoice_payments,
    payment_methods,
    receipts,
    recharge,
    top_ups,
    views,
)
from billing.api.openapi import SchemaView


class DocsView(SpectacularSwaggerView):
    http_method_names = ("get", "head")


urlpatterns = [
    path("balance", views.BalanceView.as_view()),
    path("redemptions", views.RedemptionsView.as_view()),
    path("top-ups", top_ups.TopUpsView.as_view()),
    path("top-ups/options", top_ups.TopUpOptionsView.as_view()),
    path("top-ups/<slug:top_up_id>", top_ups.TopUpView.as_view()),
    path("transfers", views.TransfersView.as_view()),
    path("invoices", views.InvoicesView.as_view()),
    path("invoices/<slug:invoice_id>", views.InvoiceView.as_view()),
    path("invoices/<slug:invoice_id>/pay", invoice_payments.InvoicePaymentView.as_view()),
    path("credit-notes", credit_notes.CreditNotesView.as_view()),
    path("credit-notes/<slug:credit_note_id>", credit_notes.CreditNoteView.as_view()),
    path("billing-profile", billing_profile.BillingProfileView.as_view()),
    path("payment-methods", payment_methods.PaymentMethodsView.as_view()),
    path("payment-methods/setup", payment_methods.SetupView.as_view()),
    path("payment-methods/<slug:method_id>", payment_methods.PaymentMethodView.as_view()),
    path("payment-methods/<slug:method_id>/default", payment_methods.DefaultView.as_view()),
    path("recharge", recharge.RechargeView.as_view()),
    path("top-ups/<slug:top_up_id>/receipt", receipts.ReceiptPdfView.as_view()),
    path("top-ups/<slug:top_up_id>/receipt.json", receipts.ReceiptView.as_view()),
    path("schema/", SchemaView.as_view(), name="schema"),
    path("docs/", DocsView.as_view(url_name="schema"), name="docs"),
]
