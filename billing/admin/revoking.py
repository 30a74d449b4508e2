"""What lets somebody in by a secret is revoked, never deleted: usage and the log point at it for ever."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.decorators import action, display

from billing.admin import html
from billing.admin.base import OperatorAdmin, Question, see_other


class KeyStatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Not revoked"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "active":
                return queryset.filter(revoked_at=None)
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


class RevocableAdmin(OperatorAdmin):
    """Rows with a name, a prefix, last four characters and `revoked_at`, for who may change them to revoke."""

    actions: Any = ("revoke_selected",)
    actions_detail: Any = ("revoke",)
    noun = ""
    what_it_stops = ""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        queryset: QuerySet[Any] = super().get_queryset(request)
        return queryset.defer("digest")

    def stop(self, number: int) -> None:
        """Revoke a row by its number."""
        raise NotImplementedError

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")

    @action(description="Revoke", url_path="revoke", icon="block", permissions=["revoke"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        obj = self.get_object(request, object_id)
        if obj is None:
            messages.error(request, f"There is no such {self.noun}.")
            return see_other(html.list_url(self.model))
        back = html.object_url(self.model, obj.pk)
        if obj.revoked_at is not None:
            messages.info(request, f"{obj.name} was revoked at {html.moment(obj.revoked_at)} UTC.")
            return see_other(back)
        if request.method == "POST":
            self.stop(obj.pk)
            self.log_change(request, obj, "Revoked.")
            messages.success(request, f"{obj.name} is revoked.")
            return see_other(back)
        question = Question(
            title=f"Revoke {obj.name}",
            text=f"{obj.prefix}…{obj.last4} stops working at once, for good. {self.what_it_stops}",
            button="Revoke",
            back=back,
        )
        return self.ask(request, question)

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        chosen = list(queryset.filter(revoked_at=None))
        for obj in chosen:
            self.stop(obj.pk)
            self.log_change(request, obj, "Revoked.")
        self.message_user(request, f"{len(chosen)} revoked; what was revoked before stays so.", messages.SUCCESS)

    @display(description="Recognised by")
    def recognised_by(self, obj: Any) -> str:
        return f"{obj.prefix}…{obj.last4}"

    @display(description="Status", label=html.KEY_TONES)
    def status_badge(self, obj: Any) -> str:
        return html.key_status(obj)
