from django.apps import AppConfig


class MeteringConfig(AppConfig):
    name = "metering"
    verbose_name = "Metering"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from billing import credit_notes, messages
        from metering import adjusted_invoices, spend

        messages.keys_of_scopes.append(spend.key_ids_of)
        credit_notes.lowered_since.append(adjusted_invoices.lowered_since)
