"""What the operator's pages have in common: figures above an object, tables below it, and lists that never scan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from django.contrib.admin import ShowFacets
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.forms import Form
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.views import ChangeList

MOST_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Figure:
    """One number above an object or on the home page; `tone` as in html.badge."""

    label: str
    value: str
    hint: str = ""
    url: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A table below an object. `numbers` are the columns to align right; `total` is its last row."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    numbers: frozenset[int] = frozenset()
    total: Sequence[object] = ()
    note: str = ""
    empty: str = "Nothing here."
    # Text as it is, in place of rows.
    body: str = ""
    url: str = ""
    # Further links beside it: (address, text).
    more: Sequence[tuple[str, str]] = ()
    # As in html.badge: how loud it is.
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What a confirmation page asks before something is done that can't be undone."""

    title: str
    text: str
    button: str
    back: str
    is_dangerous: bool = field(default=True)
    # What its form sends along: (name, value).
    hidden: Sequence[tuple[str, str]] = ()


class BoundedPaginator(Paginator):
    """Counts no further than `most`: a count of millions would take longer than anybody reads."""

    most = MOST_ROWS

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        if isinstance(rows, QuerySet):
            return rows.order_by()[: self.most].count()
        return len(rows)


class OperatorChangeList(ChangeList):
    """A list that says when it does not show everything."""

    note = ""
    result_count: int
    full_result_count: int | None

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not (self.query or self.has_active_filters):
            self.full_result_count = self.result_count
        if self.result_count == getattr(self.paginator, "most", None):
            self.note += f" There are {self.result_count:,} rows or more; only these are paged through."


class OperatorAdmin(ModelAdmin):
    """Base of every page here."""

    paginator = BoundedPaginator
    list_per_page = 50
    list_max_show_all = 200
    list_filter_submit = True
    list_fullwidth = True
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    # What an empty list says, when nothing was searched for.
    empty_text = ""
    list_before_template = "admin/list_note.html"
    change_form_outer_before_template = "admin/figures.html"
    change_form_outer_after_template = "admin/panels.html"
    # What other apps show on this page; they add to it when their own admin module is imported.
    more_panels: ClassVar[list[Callable[[HttpRequest, Any], Panel]]] = []

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[OperatorChangeList]:
        return OperatorChangeList

    def figures(self, request: HttpRequest, obj: Any) -> list[Figure]:
        """Figures above an object."""
        return []

    def panels(self, request: HttpRequest, obj: Any) -> list[Panel]:
        """Tables below an object."""
        return []

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        if obj is not None:
            context["figures"] = self.figures(request, obj)
            context["panels"] = self.panels(request, obj)
            for more in type(self).more_panels:
                context["panels"].append(more(request, obj))
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def ask(self, request: HttpRequest, question: Question) -> TemplateResponse:
        """The page that asks; its form posts to the same address."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": question.title,
            "question": question,
        }
        return TemplateResponse(request, "admin/question.html", context)

    def ask_form(
        self,
        request: HttpRequest,
        form: Form,
        *,
        title: str,
        button: str,
        back: str,
        text: str = "",
        figures: Sequence[Figure] = (),
        is_dangerous: bool = False,
        hidden: Sequence[tuple[str, str]] = (),
        panels: Sequence[Panel] = (),
    ) -> TemplateResponse:
        """The page that asks for what an action needs, such as a reason; its form posts to the same address.

        `hidden` is what it sends along: (name, value); `panels` stand below the form, to look things up in.
        """
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "form": form,
            "button": button,
            "back": back,
            "text": text,
            "figures": figures,
            "is_dangerous": is_dangerous,
            "hidden": hidden,
            "panels": panels,
        }
        return TemplateResponse(request, "admin/ask_form.html", context)

    def show_secret(self, request: HttpRequest, *, title: str, secret: str, url: str, hint: str) -> TemplateResponse:
        """The one page that ever shows a new secret: in no message, cookie, session or log, and not to be cached."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "secret": secret,
            "url": url,
            "hint": hint,
        }
        return TemplateResponse(request, "admin/secret.html", context, headers={"Cache-Control": "no-store"})


class ReadOnlyAdmin(OperatorAdmin):
    """To look at only: nobody adds, changes or deletes, whatever their permissions."""

    actions: Any = None

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        # Nobody changes these rows, so the admin's log has nothing on them.
        context["show_history"] = False
        return super().render_change_form(request, context, *args, **kwargs)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class WorkAdmin(ReadOnlyAdmin):
    """Rows are never edited; what an operator does with them is an action, for who may change them."""

    def has_work_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")


def attach(rows: Sequence[Any], lookups: dict[str, type[Model]]) -> None:
    """Fetch what plain number columns point at, one query for each, and keep it beside the rows."""
    for column, model in lookups.items():
        wanted = {number for row in rows if (number := getattr(row, column)) is not None}
        found = model._default_manager.in_bulk(wanted) if wanted else {}
        for row in rows:
            row.__dict__.setdefault("looked_up", {})[column] = found.get(getattr(row, column))


def looked_up(row: Any, column: str) -> Any:
    """What `attach` found for a column of this row."""
    return row.__dict__.get("looked_up", {}).get(column)


def see_other(url: str) -> HttpResponseRedirect:
    return HttpResponseRedirect(url)


def home_or(request: HttpRequest, url: str) -> str:
    """Where to go after an action: to the home page if the button stood there, or to this address."""
    return reverse("admin:index") if request.POST.get("back") == "home" else url
