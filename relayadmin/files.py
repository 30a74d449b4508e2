"""Answers that are files."""

from collections.abc import Iterable

from django.http import HttpResponse, StreamingHttpResponse


def pdf_response(content: bytes, name: str) -> HttpResponse:
    """A PDF that browsers show; no cache keeps it, for what is due changes."""
    return HttpResponse(
        content,
        content_type="application/pdf",
        headers={"Content-Disposition": f'inline; filename="{name}.pdf"', "Cache-Control": "no-store"},
    )


def csv_response(pieces: Iterable[bytes], name: str) -> StreamingHttpResponse:
    """A CSV file, sent while it is written."""
    return StreamingHttpResponse(
        pieces,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"', "Cache-Control": "no-store"},
    )
