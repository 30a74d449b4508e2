"""A receipt as PDF, laid out as the other documents are."""

from billing.receipts import Figures
from billing.receipts import Party as Named
from billing.typesetting import Document, Group, Lines, Pair, Party, Row, Section, typeset
from billing.words import Words, words

_BASE_CURRENCY = "USD"


def render(figures: Figures) -> bytes:
    """The PDF; the same bytes for the same figures."""
    say = words("en")
    credited = f"{figures.credited}\u00a0{_BASE_CURRENCY}"
    supplier, customer = figures.supplier, figures.customer
    return typeset(
        Document(
            title=say.text("receipt"),
            number=figures.number,
            at=figures.issued_at,
            lang=say.lang,
            region=say.region,
            mark=say.text("sandbox_mark") if figures.is_sandbox else "",
            banners=[say.text("sandbox_payment")] if figures.is_sandbox else [],
            footer=say.text("days_of", timezone=figures.timezone),
            supplier=Party(supplier.name, _lines(supplier, say)),
            customer=Party(customer.name, _lines(customer, say), label=say.text("received_from")),
            facts=[
                Pair(say.text("paid_on"), figures.paid_on),
                Pair(say.text("issued_on"), figures.issued_on),
                Pair(say.text("paid_with"), figures.paid_with),
                *([Pair(say.text("reference"), figures.reference)] if figures.reference else []),
                Pair(say.text("top_up"), figures.top_up),
            ],
            lines=Lines(
                [say.text("for"), say.text("amount")],
                [
                    Section(
                        "",
                        [
                            Group(
                                "",
                                [
                                    Row(
                                        say.text("credit_in_advance"),
                                        [credited],
                                        note=say.text("credit_added", amount=credited),
                                    )
                                ],
                            )
                        ],
                    )
                ],
            ),
            totals=[
                *(
                    [Pair(say.text("exchange_rate", currency=figures.currency), figures.rate)]
                    if figures.currency != _BASE_CURRENCY
                    else []
                ),
                Pair(say.text("paid"), f"{figures.paid}\u00a0{figures.currency}", strong=True),
            ],
            notes=[say.text("paid_back_later")],
        )
    )


def _lines(party: Named, say: Words) -> list[str]:
    number = party.tax_number
    return [
        *(line.strip() for line in party.address.splitlines() if line.strip()),
        *([say.text("tax_number", number=number)] if number else []),
        *(line for line in (party.email, party.id) if line),
    ]
