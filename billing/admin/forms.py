"""Form fields of the operator's pages."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from relayadmin.money import InvalidAmount, amount_text, parse_amount


class LinesField(forms.CharField):
    """A list of strings, one a line."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("required", False)
        kwargs.setdefault("widget", UnfoldAdminTextareaWidget(attrs={"rows": 4}))
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        if isinstance(value, list):
            return value
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def clean(self, value: Any) -> Any:
        return self.to_python(super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(self.to_python(initial) != self.to_python(data))

    def run_validators(self, value: Any) -> None:
        """A NUL is the one thing that no line may hold."""
        if any("\x00" in line for line in value):
            raise ValidationError("Null characters are not allowed.")


class AmountFormField(forms.CharField):
    """A USD amount as plain decimal text, read exactly."""

    widget = UnfoldAdminTextInputWidget

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.widget.attrs.update({"inputmode": "decimal", "placeholder": "50.00", "autocomplete": "off"})

    def prepare_value(self, value: Any) -> Any:
        return amount_text(value) if isinstance(value, Decimal) else value

    def clean(self, value: Any) -> Decimal | None:
        text = super().clean(value)
        if not text:
            return None
        try:
            return parse_amount(text)
        except InvalidAmount as error:
            raise ValidationError(str(error).capitalize() + ".") from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        """5 and 5.00 are the same."""
        try:
            return bool(self.clean(data) != initial)
        except ValidationError:
            return True


class MomentField(forms.DateTimeField):
    """A moment in UTC, by the browser's own picker."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("required", False)
        widget = UnfoldAdminTextInputWidget(attrs={"type": "datetime-local", "step": "1"})
        super().__init__(widget=widget, **kwargs)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """What the form can't show, it has not changed: the fraction of a second."""
        if isinstance(initial, datetime):
            initial = initial.replace(microsecond=0)
        return bool(super().has_changed(initial, data))

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, datetime):
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
        return value
