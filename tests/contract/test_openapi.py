"""The OpenAPI document is complete and true: real answers fit it."""

import json
import re
from datetime import UTC, date, datetime
from functools import cache
from io import StringIO
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from django.core.management import call_command
from django.test import Client

from billing.models import TopUp
from metering.statements import close_invoices
from tests.paying import sync
from tests.payments_sandbox import StripeSandbox
from tests.redemption import make_codes
from tests.world import Answer, CustomerApi, Relay, make_event, make_payer

pytestmark = pytest.mark.django_db


@cache
def document() -> dict[str, Any]:
    response = Client().get("/api/v1/schema/")
    assert response.status_code == 200
    found: dict[str, Any] = json.loads(response.content)
    return found


def plain(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(schema, list):
        return [plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: plain(part) for name, part in schema.items() if name != "nullable"}
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") is True else found


def assert_fits(answer: Answer, method: str, path: str) -> None:
    responses = document()["paths"][f"/api/v1/{path}"][method.lower()]["responses"]
    schema = responses[str(answer.status)]["content"]["application/json"]["schema"]
    components = plain(document()["components"])
    jsonschema.validate(answer.body, {**plain(schema), "components": components})
    if isinstance(answer.body, dict) and "$ref" in schema:
        component = document()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        assert set(answer.body) == set(component["properties"]), "nothing is answered that is not in the document"


def test_the_document_is_generated_without_a_warning() -> None:
    call_command("spectacular", validate=True, fail_on_warn=True, stdout=StringIO())


def test_the_document_and_its_page_are_there_for_anybody_and_load_nothing_from_elsewhere() -> None:
    assert document()["openapi"].startswith("3.")
    page = Client().get("/api/v1/docs/")
    assert page.status_code == 200
    sources = re.findall(rb'(?:src|href)="([^"]+)"', page.content)
    assert sources
    assert not [source for source in sources if not source.startswith(b"/")]
    assert b'"validatorUrl": null' in page.content


def test_every_operation_has_a_name_a_bearer_token_and_typed_answers() -> None:
    security = document()["components"]["securitySchemes"]
    assert (security["accessToken"]["type"], security["accessToken"]["scheme"]) == ("http", "bearer")
    operations = [(path, operation) for path, methods in document()["paths"].items() for operation in methods.values()]
    assert {path.removeprefix("/api/v1/") for path, _ in operations} >= {
        "balance",
        "api-keys",
        "api-keys/{api_key_id}",
        "spend-limits",
        "usage",
        "usage/events",
        "prices",
        "invoices",
        "invoices/{invoice_id}",
        "redemptions",
        "top-ups",
        "top-ups/options",
        "top-ups/{top_up_id}",
        "transfers",
    }
    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    for path, operation in operations:
        assert {"accessToken": []} in operation["security"], path
        assert {"401", "403"} <= operation["responses"].keys(), path
        for status, response in operation["responses"].items():
            if status == "204":
                continue
            ((media_type, content),) = response["content"].items()
            if media_type != "application/json":
                assert (status, media_type) in {("200", "application/pdf"), ("200", "text/csv")}, path
                assert content["schema"] == {"type": "string", "format": "binary"}, path
                continue
            schema = content["schema"]
            assert schema == {"$ref": "#/components/schemas/Error"} or status in {"200", "201"}, path


def test_answers_about_payments_fit_the_document(stripe_sandbox: StripeSandbox) -> None:
    payer = make_payer(credit="0")
    api = CustomerApi(payer)
    assert_fits(api.get("top-ups/options"), "get", "top-ups/options")
    made = api.send("POST", "top-ups", {"amount": "10.00"})
    assert made.status == 201
    assert_fits(made, "post", "top-ups")
    row = TopUp.objects.get()
    stripe_sandbox.pay(row.session_id or "")
    sync(row)
    assert_fits(api.get("top-ups"), "get", "top-ups")
    assert_fits(api.get(f"top-ups/{row.public_id}"), "get", "top-ups/{top_up_id}")
    assert_fits(api.get("top-ups/top_0"), "get", "top-ups/{top_up_id}")
    assert_fits(api.send("POST", "top-ups", {"amount": "0.01"}), "post", "top-ups")
    stripe_sandbox.fail_next("cut", path="/v1/checkout/sessions")
    away = api.send("POST", "top-ups", {"amount": "10.00"})
    assert away.status == 503
    assert_fits(away, "post", "top-ups")


def test_real_answers_fit_the_document() -> None:
    payer, relay = make_payer(), Relay()
    authorization = relay.authorize(payer).body["id"]
    relay.report(
        make_event(payer, authorization=authorization, metadata={"a": [1]}),
        make_event(payer, occurred_at="2026-10-05T10:00:00Z"),
    )
    close_invoices(period=date(2026, 10, 1), at=datetime(2026, 11, 2, tzinfo=UTC), customer=payer.customer)
    api = CustomerApi(payer)
    limits = {"api_key": payer.key.public_id, "limits": [{"span": "day", "amount": "5", "type": "hard"}]}
    assert_fits(api.send("PUT", "spend-limits", limits), "put", "spend-limits")
    assert_fits(api.send("PUT", "spend-limits", {"api_key": None}), "put", "spend-limits")
    for path in ("balance", "api-keys", "usage", "usage/events", "prices", "invoices", "transfers", "spend-limits"):
        answer = api.get(path)
        assert answer.status == 200
        assert path == "balance" or answer.body["data"], path
        assert_fits(answer, "get", path)
    invoice = api.get("invoices").body["data"][0]
    assert_fits(api.get(f"invoices/{invoice['id']}"), "get", "invoices/{invoice_id}")
    made = api.send("POST", "api-keys", {"name": "a"})
    assert_fits(made, "post", "api-keys")
    path = f"api-keys/{made.body['id']}"
    assert_fits(api.get(path), "get", "api-keys/{api_key_id}")
    assert_fits(api.send("PATCH", path, {"name": "b"}), "patch", "api-keys/{api_key_id}")
    assert_fits(api.send("DELETE", path), "delete", "api-keys/{api_key_id}")
    assert_fits(api.send("PATCH", path, {"name": "c"}), "patch", "api-keys/{api_key_id}")
    assert_fits(api.send("POST", "api-keys", {}), "post", "api-keys")
    (code,) = make_codes()
    for _ in range(2):
        assert_fits(api.send("POST", "redemptions", {"code": code}), "post", "redemptions")
    assert_fits(api.send("POST", "redemptions", {}), "post", "redemptions")
    assert_fits(api.get("api-keys/key_x"), "get", "api-keys/{api_key_id}")
    assert_fits(api.get("usage", start="x"), "get", "usage")
