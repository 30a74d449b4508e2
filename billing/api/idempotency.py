"""Writes that may be sent twice: the same Idempotency-Key does its work once and gets the first answer again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.authentication import caller_of
from billing.models import IdempotentAnswer
from relayadmin.db import in_transaction, server_cursor
from relayadmin.errors import ApiError, invalid_request

HEADER = "Idempotency-Key"
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write answers; the fields in `secrets` are shown once and null when the answer is replayed."""

    body: Mapping[str, Any]
    status: int = 200
    secrets: tuple[str, ...] = ()


def once(request: Request, work: Callable[[], Answer]) -> Response:
    """Do a write in a transaction, at most once per customer and Idempotency-Key if the request has one.

    The answer is kept in the work's own transaction: a refusal leaves no trace and is judged anew. Of several requests
    with one key at the same moment, the others wait for the first. Raises ApiError 409 `idempotency_conflict`.
    """
    key = key_of(request)
    digest = b"" if key is None else _digest(request)

    def work_and_keep() -> Response:
        if key is None:
            return _response(work())
        customer_id = caller_of(request).customer.pk
        while (taken := _take(customer_id, key, digest)) is None:
            kept = IdempotentAnswer.objects.filter(customer_id=customer_id, key=key).first()
            if kept is not None:  # Else it has grown too old this very moment and was removed.
                return _replay(kept, digest)
        answer = work()
        IdempotentAnswer.objects.filter(pk=taken).update(
            status=answer.status, body={**answer.body, **dict.fromkeys(answer.secrets)}
        )
        return _response(answer)

    return in_transaction(work_and_keep)


def amend(request: Request, body: Mapping[str, Any]) -> None:
    """Let later requests with this one's Idempotency-Key get another answer than was kept, such as a completed one."""
    key = key_of(request)
    if key is not None:
        IdempotentAnswer.objects.filter(customer_id=caller_of(request).customer.pk, key=key).update(body=dict(body))


def is_answered(request: Request) -> bool:
    """Whether this request's Idempotency-Key has an answer, so that no work will be done for it."""
    key = key_of(request)
    if key is None:
        return False
    return IdempotentAnswer.objects.filter(customer_id=caller_of(request).customer.pk, key=key).exists()


def key_of(request: Request) -> str | None:
    """The request's Idempotency-Key, if it has one. Raises ApiError 400."""
    key: str | None = request.headers.get(HEADER)
    if key is not None and not (1 <= len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise invalid_request(f"{HEADER} must have 1 to {_LONGEST_KEY} printable ASCII characters.", HEADER)
    return key


def _digest(request: Request) -> bytes:
    """What makes two requests the same: method, path and the body's content, however it is spaced."""
    content = json.dumps([request.method, request.path, request.data], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).digest()


def _take(customer_id: int, key: str, digest: bytes) -> int | None:
    """Take a key for this transaction and return its row's id; None if it was taken, after waiting for who took it."""
    with server_cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_idempotentanswer (customer_id, key, digest, status, body, created_at)"
            " VALUES (%s, %s, %s, 0, 'null', now()) ON CONFLICT (customer_id, key) DO NOTHING RETURNING id",
            [customer_id, key, digest],
        )
        row = cursor.fetchone()
    return None if row is None else int(row[0])


def _replay(kept: IdempotentAnswer, digest: bytes) -> Response:
    if bytes(kept.digest) != digest:
        raise ApiError(
            409,
            "idempotency_conflict",
            f"This {HEADER} was used for another request. Use a new one for each thing you want done.",
            param=HEADER,
        )
    return Response(kept.body, status=kept.status, headers={"Idempotent-Replayed": "true"})


def _response(answer: Answer) -> Response:
    return Response(dict(answer.body), status=answer.status)
