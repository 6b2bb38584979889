"""One self-contained HTML page: no external file, no script, no request."""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from rcdm_cli.core.files import write_text
from rcdm_cli.report.elements import Section
from rcdm_cli.report.html import as_html

_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="rcdm">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>{contents}</header>
{sections}
</body>
</html>
""")


def write_page(path: Path, title: str, sections: Sequence[tuple[Path, Section]]) -> None:
    """Write ``sections`` as one page that can be moved, mailed and opened anywhere.

    Its content security policy allows embedded figures and this one style sheet, and nothing else.

    Args:
        path: of the page, written whole or not at all.
        title: of the page.
        sections: each with the folder that its figures' files are relative to.

    Raises:
        InputError: a figure is missing, damaged or outside its folder.
    """
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    bodies = [
        Markup(
            '<section id="section-{number}"><h2>{title}</h2><p class="question">{question}</p>{body}</section>'
        ).format(
            number=number,
            title=section.title,
            question=section.question,
            body=Markup("").join(as_html(element, folder) for element in section.elements),
        )
        for number, (folder, section) in enumerate(sections, 1)
    ]
    page = _PAGE.format(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        title=title,
        style=Markup(style),
        contents=_contents([section for _, section in sections]),
        sections=Markup("\n").join(bodies),
    )
    write_text(path, _clean(page))


def _clean(text: str) -> str:
    """Bytes of a file name that are no text, and control characters, become the sign for what cannot be shown."""
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", whole)


def _contents(sections: Sequence[Section]) -> Markup:
    if len(sections) < 2:
        return Markup("")
    items = Markup("").join(
        Markup('<li><a href="#section-{}">{}</a></li>').format(number, section.title)
        for number, section in enumerate(sections, 1)
    )
    return Markup('<nav aria-label="Contents"><ol>{}</ol></nav>').format(items)
