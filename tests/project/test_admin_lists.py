"""Lists and pages of every model in the admin, on rows of each of them: they answer, and what is read-only stays so."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing.models import OperatorSettings
from tests.operator import MODELS, READ_ONLY, fill, fill_credit, key_of, label, log_in, make_staff, page

# Signing in, the sidebar and the list itself; not one more for each row.
MOST_QUERIES = 16


@pytest.fixture(scope="module")
def _rows(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Rows of every model, made once: each test's own transaction is a savepoint within this one."""
    with django_db_blocker.unblock(), transaction.atomic():
        fill_credit(fill())
        yield
        transaction.set_rollback(True)


@pytest.fixture
def operator(_rows: None, db: None) -> Client:
    return log_in(make_staff(is_superuser=True))


@pytest.mark.parametrize("model", MODELS, ids=label)
def test_list_and_object_pages_answer_with_few_queries(model: Any, operator: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        listed = operator.get(page(model, "changelist"))
    assert listed.status_code == (302 if model is OperatorSettings else 200)
    assert len(queries) <= MOST_QUERIES
    row = model._default_manager.order_by("-pk").first()
    if row is not None:
        assert operator.get(page(model, "change", key_of(row))).status_code == 200


@pytest.mark.parametrize("model", READ_ONLY, ids=label)
def test_what_is_read_only_refuses_adding_changing_and_deleting(model: Any, operator: Client) -> None:
    assert operator.post(page(model, "add"), {}).status_code == 403
    row = model._default_manager.order_by("-pk").first()
    if row is not None:
        assert operator.post(page(model, "change", key_of(row)), {"_save": "1"}).status_code == 403
        assert operator.post(page(model, "delete", key_of(row)), {"post": "yes"}).status_code == 403
        answer = operator.post(
            page(model, "changelist"), {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"}
        )
        assert answer.status_code in {200, 302}
        assert model._default_manager.filter(pk=row.pk).exists()
