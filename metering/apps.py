from django.apps import AppConfig


class MeteringConfig(AppConfig):
    name = "metering"
    verbose_name = "Metering"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from billing import messages
        from metering import spend

        messages.keys_of_scopes.append(spend.key_ids_of)
