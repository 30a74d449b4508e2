"""The pages for people: pay or decline a session, authenticate, and the dashboard with disputes and refunds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from relayadmin.money import InvalidAmount, from_minor_units, minor_units, parse_amount
from sandbox import cards, control
from sandbox.currencies import shown
from sandbox.errors import Json, Refused
from sandbox.world import World

STYLE = Path(__file__).with_name("pages.css").read_text()
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
SHOWN_MAX = 50
ICON = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E%3Cpath fill='%23b45309' d='M0 0h8v8H0z'/%3E%3C/svg%3E"  # noqa: E501


@dataclass(frozen=True)
class Page:
    html: str
    status: int = 200
    location: str | None = None


def answer(world: World, method: str, steps: list[str], form: dict[str, str]) -> Page:
    try:
        match (method, *steps):
            case ("GET", ""):
                return home(world)
            case ("GET", "pay", id):
                return session_page(world, world.get("checkout.session", id))
            case ("POST", "pay", id):
                return _paid(world, id, form)
            case ("GET", "authenticate", id):
                return authentication_page(world, world.get("payment_intent", id))
            case ("POST", "authenticate", id):
                control.do(world, "payment_intents", id, "authenticate", {"passes": form.get("passes") == "yes"})
                return _go(_after_authentication(world, id))
            case ("GET", "receipts", id):
                return receipt(world, world.get("charge", id))
            case ("POST", "again", id):
                _deliver_again(world, id)
                return _go("/")
            case ("POST", "do", "charges", id, "refund"):
                control.do(world, "charges", id, "refund", {"amount": _amount(world, id, form)})
                return _go("/")
            case ("POST", "do", kind, id, deed):
                control.do(world, kind, id, deed, _typed(form))
                return _go("/")
    except Refused as refused:
        message = refused.body["error"]["message"]
        back = '<p><a class="button plain" href="/">To all payments</a></p>'
        return _page(
            "Not possible", f'<section class="card"><h1>Not possible</h1><p>{escape(message)}</p>{back}</section>', 409
        )
    return _page(
        "Not found", '<section class="card"><h1>Not found</h1><p><a href="/">All payments</a></p></section>', 404
    )


# --- what the payer sees


def session_page(world: World, session: Json) -> Page:
    title = "Save a card" if session["mode"] == "setup" else "Pay"
    params = session["_sandbox"]["params"]
    amount = (
        ""
        if session["mode"] == "setup"
        else f'<p class="amount">{shown(session["amount_total"], session["currency"])}</p>'
    )
    items = params.get("line_items", [])
    what = items[0]["price_data"]["product_data"]["name"] if items else "Save a card for later payments"
    head = f'<p class="what">{escape(what)}</p>{amount}'
    if session["status"] != "open":
        return _page(title, f'<section class="card">{head}{_ended(session)}</section>')
    intent = world.store.find(session["payment_intent"]) if session["payment_intent"] else None
    if intent and intent["status"] == "requires_action":
        return _go(f"/authenticate/{intent['id']}")
    setup = world.store.find(session["setup_intent"]) if session["setup_intent"] else None
    error = (intent or {}).get("last_payment_error") or (setup or {}).get("last_setup_error")
    notice = (
        f'<p class="notice bad" role="alert">{escape(error["message"])} Try again, or another way.</p>' if error else ""
    )
    methods = "".join(_method(session, name) for name in session["payment_method_types"])
    return _page(title, f'<section class="card">{head}{notice}{methods}{_leave(session)}</section>')


def _method(session: Json, name: str) -> str:
    verb = (
        "Save this card" if session["mode"] == "setup" else f"Pay {shown(session['amount_total'], session['currency'])}"
    )
    choice = ""
    if name == "card":
        choice = '<label>Test card<select name="card">' + "".join(
            f'<option value="{card.number}">{_grouped(card.number)} – {escape(card.says)}</option>'
            for card in cards.CARDS.values()
        ) + "</select></label>"  # fmt: skip
    others = [("decline:insufficient_funds", "Decline: no funds"), ("decline:generic_decline", "Decline")]
    if session["mode"] == "payment":
        others += [("authenticate", "Ask for authentication"), ("slow", "Slow bank")]
    buttons = "".join(_button(value, text, "plain") for value, text in others)
    return (
        f'<form method="post" action="/pay/{session["id"]}" class="method"><h2>{cards.NAMES[name]}</h2>'
        f'<input type="hidden" name="method" value="{name}">{choice}{_button("pay", verb, f"by-{name}")}'
        f'<details><summary>Let something else happen</summary><div class="row">{buttons}</div></details></form>'
    )


def _grouped(number: str) -> str:
    return " ".join(number[start : start + 4] for start in range(0, 16, 4))


def _leave(session: Json) -> str:
    minutes = max(0, session["expires_at"] - int(time.time())) // 60
    back = f'<a href="{escape(session["cancel_url"])}">Cancel and go back</a>' if session["cancel_url"] else ""
    expire = (
        f'<form method="post" action="/pay/{session["id"]}">{_button("expire", "Let it expire now", "quiet")}</form>'
    )
    return f'<div class="leave"><span>Ends in {minutes // 60} h {minutes % 60} min</span>{expire}{back}</div>'


def _ended(session: Json) -> str:
    if session["status"] == "expired":
        link = f'<a class="button" href="{escape(session["cancel_url"])}">Go back</a>' if session["cancel_url"] else ""
        return f'<p class="notice bad">This page has expired. Nothing was paid.</p>{link}'
    text = {"paid": "Paid.", "unpaid": "The bank has been told; the money is on its way."}.get(
        session["payment_status"], "Card saved."
    )
    return f'<p class="notice good">{text}</p><a class="button" href="{escape(_success(session))}">Go back</a>'


def _success(session: Json) -> str:
    address: str = session["success_url"]
    return address.replace("{CHECKOUT_SESSION_ID}", session["id"])


def _paid(world: World, id: str, form: dict[str, str]) -> Page:
    outcome = form.get("outcome", "pay")
    if outcome == "expire":
        session = control.do(world, "sessions", id, "expire", {})
    else:
        session = control.do(world, "sessions", id, "pay", {**form, "outcome": outcome})
    return _go(_success(session) if session["status"] == "complete" else f"/pay/{id}")


def authentication_page(world: World, intent: Json) -> Page:
    if intent["status"] != "requires_action":
        return _go(_after_authentication(world, intent["id"]))
    return _page(
        "Authenticate",
        f'<section class="card"><p class="what">Your bank asks whether it is you</p><p class="amount">'
        f'{shown(intent["amount"], intent["currency"])}</p><form method="post" class="method">'
        f'<button class="button" name="passes" value="yes">It is me: pay</button>'
        f'<button class="button plain" name="passes" value="no">Refuse</button></form></section>',
    )


def _after_authentication(world: World, id: str) -> str:
    for session in world.store.every("checkout.session", payment_intent=id):
        return _success(session) if session["status"] == "complete" else f"/pay/{session['id']}"
    return "/"


def receipt(world: World, charge: Json) -> Page:
    rows = {
        "Amount": shown(charge["amount"], charge["currency"]),
        "Refunded": shown(charge["amount_refunded"], charge["currency"]),
        "Paid with": _paid_with(charge),
        "For": charge["description"] or "",
        "Payment": charge["payment_intent"],
        "Date": _when(charge["created"]),
    }
    lines = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items())
    return _page("Receipt", f'<section class="card"><h1>Receipt</h1><dl>{lines}</dl></section>')


# --- what the merchant sees


def home(world: World) -> Page:
    intents = world.store.every("payment_intent")[:SHOWN_MAX]
    waiting = world.store.every("checkout.session", status="open")[:SHOWN_MAX]
    saved = [each for each in world.store.every("payment_method", type="card") if each["customer"]][:SHOWN_MAX]
    parts = [
        "<h1>Payment sandbox</h1><p class='lead'>It stands in for Stripe on this machine. What happens here is told to "
        "relayadmin by signed webhooks, as Stripe would.</p>",
        _part("Waiting for the payer", [_waiting(session) for session in waiting], "No open checkout page."),
        _part(
            "Payments", [_payment(world, intent) for intent in intents], "No payment yet: make a top-up in relayadmin."
        ),
        _part("Saved cards", [_saved(method) for method in saved], "No saved card."),
        _webhooks(world),
    ]
    return _page("Payment sandbox", f'<div class="wide">{"".join(parts)}</div>')


def _part(title: str, rows: list[str], nothing: str) -> str:
    inner = "".join(rows) or f'<p class="empty">{nothing}</p>'
    return f'<section><h2>{title}</h2><div class="list">{inner}</div></section>'


def _waiting(session: Json) -> str:
    amount = "Save a card" if session["mode"] == "setup" else shown(session["amount_total"], session["currency"])
    open_ = f'<a class="button small" href="/pay/{session["id"]}">Open</a>'
    expire = _deed("sessions", session["id"], "expire", "Let it expire")
    return _row(amount, "open", session["client_reference_id"] or "", session["created"], open_ + expire)


def _payment(world: World, intent: Json) -> str:
    charge = world.store.find(intent["latest_charge"]) if intent["latest_charge"] else None
    disputes = world.store.every("dispute", payment_intent=intent["id"])
    refunds = world.store.every("refund", payment_intent=intent["id"])
    state, buttons = intent["status"], ""
    if intent["last_payment_error"]:
        state = "declined"
    if state == "requires_action":
        buttons = f'<a class="button small" href="/authenticate/{intent["id"]}">Authenticate</a>'
    if state == "processing":
        buttons = _deed("payment_intents", intent["id"], "settle", "Money arrives", arrives="yes")
        buttons += _deed("payment_intents", intent["id"], "settle", "It never does", arrives="no")
    if charge and charge["status"] == "succeeded":
        state = "refunded" if charge["refunded"] else "partly refunded" if charge["amount_refunded"] else state
        buttons = _returns(charge, disputes, refunds)
        if disputes:
            state = f"dispute {disputes[0]['status'].replace('_', ' ')}"
    again = (
        f'<form method="post" action="/again/{intent["id"]}">'
        '<button class="button small quiet">Send webhooks again</button></form>'
    )
    error = (intent["last_payment_error"] or {}).get("message")
    about = " · ".join(
        filter(
            None,
            [intent["metadata"].get("top_up"), _paid_with(charge) if charge else None, error, *map(_refunded, refunds)],
        )
    )
    return _row(shown(intent["amount"], intent["currency"]), state, about, intent["created"], buttons + again)


def _returns(charge: Json, disputes: list[Json], refunds: list[Json]) -> str:
    buttons = ""
    for refund in refunds:
        if refund["status"] == "pending":
            buttons += _deed("refunds", refund["id"], "settle", "Refund arrives", arrives="yes")
            buttons += _deed("refunds", refund["id"], "settle", "Refund fails", arrives="no")
    for dispute in disputes:
        if dispute["status"] == "warning_needs_response":
            buttons += _deed("disputes", dispute["id"], "withdraw", "Withdraw the money")
        if dispute["status"] in {"needs_response", "under_review"}:
            buttons += _deed("disputes", dispute["id"], "win", "Win") + _deed("disputes", dispute["id"], "lose", "Lose")
    if not disputes and not charge["refunded"]:
        buttons += _deed("charges", charge["id"], "dispute", "Dispute")
        buttons += _deed("charges", charge["id"], "dispute", "Inquiry", withdraws="no")
    if not charge["refunded"] and all(dispute["status"] in {"won", "warning_closed"} for dispute in disputes):
        left = from_minor_units(charge["amount"] - charge["amount_refunded"], charge["currency"])
        buttons += (
            f'<form method="post" action="/do/charges/{charge["id"]}/refund" class="row">'
            f'<input name="amount" inputmode="decimal" size="7" value="{left}" aria-label="Amount to refund">'
            '<button class="button small plain">Refund</button></form>'
        )
    return buttons


def _refunded(refund: Json) -> str:
    return f"refund {shown(refund['amount'], refund['currency'])} {refund['status']}"


def _saved(method: Json) -> str:
    name = f"{method['card']['brand'].title()} ···· {method['card']['last4']}"
    behaves = method["_sandbox"]["behaves"]
    buttons = "".join(
        _deed("payment_methods", method["id"], "behave", text, **{"as": value})
        for value, text in (
            ("pays", "Let it pay"),
            ("insufficient_funds", "Let it decline"),
            ("authenticates", "Let it ask"),
        )
        if value != behaves
    )
    detach = _deed("payment_methods", method["id"], "detach", "Detach")
    return _row(name, behaves.replace("_", " "), method["customer"], method["created"], buttons + detach)


def _webhooks(world: World) -> str:
    sent = control.deliveries(world)
    counts = {
        state: sum(each["state"] == state for each in sent) for state in ("delivered", "pending", "dropped", "failed")
    }
    figures = " · ".join(f"{count} {state}" for state, count in counts.items() if count) or "none yet"
    last = next((each["answer"] for each in reversed(sent) if each["state"] == "pending" and each["answer"]), "")
    trouble = f'<p class="notice bad">The last answer was {escape(last)}; it is tried again.</p>' if last else ""
    address = escape(world.store.setting("webhook_url", None) or "nowhere")
    return f"<section><h2>Webhooks</h2><p>To <code>{address}</code>: {figures}</p>{trouble}</section>"


def _deliver_again(world: World, id: str) -> None:
    """Every event that tells of a payment, of its charge, session, refunds or disputes."""
    with world.store.transaction():
        for event in reversed(world.store.every("event")):
            thing = event["data"]["object"]
            if id in (thing.get("id"), thing.get("payment_intent")):
                world.deliver(event["id"])


# --- pieces


def _paid_with(charge: Json) -> str:
    details = charge["payment_method_details"]
    card = details.get("card")
    return f"{card['brand'].title()} ···· {card['last4']}" if card else cards.NAMES[details["type"]]


def _row(name: str, state: str, about: str, created: int, buttons: str) -> str:
    text = state.replace("_", " ")
    kind = "good" if text == "succeeded" or "won" in text else "bad" if text == "declined" or "dispute" in text else ""
    return (
        f'<div class="item"><div><strong>{escape(name)}</strong> <span class="tag {kind}">{escape(text)}</span>'
        f'<p>{escape(about)}</p></div><time>{_when(created)}</time><div class="row">{buttons}</div></div>'
    )


def _deed(kind: str, id: str, deed: str, text: str, **fields: str) -> str:
    hidden = "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in fields.items())
    return (
        f'<form method="post" action="/do/{kind}/{id}/{deed}">{hidden}'
        f'<button class="button small plain">{escape(text)}</button></form>'
    )


def _button(outcome: str, text: str, kind: str) -> str:
    return f'<button class="button {kind}" name="outcome" value="{outcome}">{escape(text)}</button>'


def _amount(world: World, charge: str, form: dict[str, str]) -> int:
    try:
        return minor_units(parse_amount(form.get("amount", "").strip()), world.get("charge", charge)["currency"])
    except InvalidAmount as error:
        raise Refused(f"{error}.") from None


def _typed(form: dict[str, str]) -> Json:
    return {name: {"yes": True, "no": False}.get(value, value) for name, value in form.items()}


def _when(created: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(created)) + " UTC"


def _go(address: str) -> Page:
    is_ours = address.startswith("/") or urlsplit(address).scheme in {"http", "https"}
    return Page("", 303, address if is_ours else "/")


def _page(title: str, inner: str, status: int = 200) -> Page:
    return Page(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} – sandbox</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="{ICON}">'
        f"<style>{STYLE}</style></head><body><header><strong>Sandbox: no real money</strong>"
        '<span>Nothing here reaches a bank. <a href="/">All payments</a></span></header>'
        f"<main>{inner}</main></body></html>",
        status,
    )
