"""Floats never touch money: neither as types, nor as literals, nor as columns."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# They measure seconds, or look at what came in to refuse it.
SECONDS_OR_REFUSALS = {
    "billing/jobs.py",
    "billing/mailing.py",
    "billing/outbound.py",
    "billing/webhook_sending.py",
    "metering/formats/base.py",
    "metering/relay_client.py",
    "metering/replay.py",
    "metering/replay_server.py",
    "metering/statements.py",
    "metering/uninvoiced.py",
}
MODULES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("billing", "metering")
    for path in (ROOT / folder).rglob("*.py")
    if "migrations" not in path.parts
)


def floats_of(source: str) -> list[int]:
    """The lines of a module that name `float`, a float column, or a literal with a point."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        is_named = isinstance(node, ast.Name) and node.id in {"float", "FloatField"}
        is_column = isinstance(node, ast.Attribute) and node.attr == "FloatField"
        is_literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
        if is_named or is_column or is_literal:
            lines.append(node.lineno)
    return lines


def test_a_float_would_be_seen() -> None:
    assert sorted(floats_of("a = float(1)\nb = 0.1\nc = models.FloatField()")) == [1, 2, 3]


@pytest.mark.parametrize("module", [*sorted(set(MODULES) - SECONDS_OR_REFUSALS), "relayadmin/money.py"])
def test_there_is_none(module: str) -> None:
    assert floats_of((ROOT / module).read_text()) == []
