"""A receipt as PDF. The template gets the figures as data; nothing of them is ever read as its source."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from billing.receipts import Figures

if TYPE_CHECKING:
    import typst

TEMPLATE = Path(settings.BASE_DIR) / "templates" / "receipt.typ"


def render(figures: Figures) -> bytes:
    """The PDF; the same bytes for the same figures."""
    import typst  # 80 MB that only processes which have made a PDF carry

    # Typst would follow links in its input; this is one file, which reads nothing but its data.
    made = typst.compile(
        str(TEMPLATE),
        root=str(TEMPLATE.parent),
        font_paths=_fonts(),
        sys_inputs={"receipt": json.dumps(asdict(figures), default=lambda moment: moment.isoformat())},
        format="pdf",
        timestamp=int(figures.issued_at.timestamp()),
    )
    assert isinstance(made, bytes)
    return made


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
