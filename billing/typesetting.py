"""Documents as PDF: one Typst compiler per process, its fonts and template read once.

What a document shows comes in as data; nothing of it is ever read as Typst's source.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from django.conf import settings

if TYPE_CHECKING:
    import typst

TEMPLATES = Path(settings.BASE_DIR) / "templates" / "documents"

# Control characters, and those that turn the direction of what follows: a name must not reorder its neighbours.
_UNWANTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")
_LONG_WORD = re.compile(r"[^\s\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff]{25,}")
_WIDTH = 12
_REMEMBERED = 10
_compiling = Lock()


@dataclass(frozen=True, slots=True)
class Pair:
    """A label and its value."""

    label: str
    value: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Party:
    """Supplier or customer: a name in bold, the lines below it."""

    name: str
    lines: Sequence[str]
    label: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A line: its words with a small remark, then the figures of the other columns."""

    text: str
    cells: Sequence[str]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Lines below a heading that is repeated on each page they run over; "" for none."""

    heading: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Section:
    """Groups below a band, as of a month."""

    heading: str
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class Lines:
    """The table: heads of its columns, the first of words, the others of figures."""

    columns: Sequence[str]
    sections: Sequence[Section]


@dataclass(frozen=True, slots=True)
class Summary:
    """A small table of its own."""

    title: str
    rows: Sequence[Pair]


@dataclass(frozen=True, slots=True)
class Document:
    """All that a page shows, in words. `mark` stands across each page, `banners` on top of the first."""

    title: str
    number: str
    at: datetime
    lang: str
    region: str | None
    supplier: Party
    customer: Party
    facts: Sequence[Pair]
    lines: Lines
    totals: Sequence[Pair]
    paper: str = "a4"
    footer: str = ""
    mark: str = ""
    banners: Sequence[str] = ()
    summaries: Sequence[Summary] = ()
    request: str = ""
    notes: Sequence[str] = field(default=())


def typeset(document: Document) -> bytes:
    """The PDF; the same bytes for the same document."""
    data = json.dumps(_clean(asdict(document)), ensure_ascii=False, default=lambda moment: moment.isoformat())
    with _compiling:
        made = _compiler("document.typ").compile(
            format="pdf", sys_inputs={"document": data}, timestamp=int(document.at.timestamp())
        )
        _forget()
    assert isinstance(made, bytes)
    return made


def _forget() -> None:
    """Drop what Typst remembers of the last document, which it does for ten compilations.

    Ten long ones are half a gigabyte (measured: 498 MB against 91), and one document's memory is of no use to the next.
    """
    blank = _compiler("blank.typ")
    for _ in range(_REMEMBERED):
        blank.compile(format="pdf")


@cache
def _compiler(template: str) -> "typst.Compiler":
    """A template of the folder; what Typst would follow of links in its input ends at the folder."""
    import typst  # 80 MB that only processes which have made a PDF carry

    return typst.Compiler(str(TEMPLATES / template), root=str(TEMPLATES), font_paths=_fonts())


@cache
def _fonts() -> "typst.Fonts":
    """Noto Sans, and Noto Sans SC for Chinese; none of the machine's, so that it looks the same everywhere."""
    import fontpkg_noto_sans
    import pylopdf_fonts_zh_cn
    import typst

    folders = [fontpkg_noto_sans.ROOT / "files", pylopdf_fonts_zh_cn.sans_path().parent]
    return typst.Fonts(
        include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(folder) for folder in folders]
    )


def _clean(value: Any) -> Any:
    """Texts without characters that could break the page, and with places to break very long words at."""
    if isinstance(value, str):
        return _LONG_WORD.sub(_breakable, _UNWANTED.sub("", value.replace("\n", " ").replace("\t", " ")))
    if isinstance(value, dict):
        return {name: _clean(part) for name, part in value.items()}
    return [_clean(part) for part in value] if isinstance(value, list | tuple) else value


def _breakable(found: re.Match[str]) -> str:
    word = found[0]
    return "\u200b".join(word[start : start + _WIDTH] for start in range(0, len(word), _WIDTH))
