"""The pieces of a report's page: sections, figures, tables.  Pure."""

from collections.abc import Sequence
from html import escape

from bench.stats.intervals import Verdict


def page(title: str, css: str, sections: Sequence[str]) -> str:
    """Return a whole page that fetches nothing; empty sections are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def section(heading: str, text: str, content: str) -> str:
    return (
        f'<section><h2>{escape(heading)}</h2><p class="soft">{escape(text)}</p>{content}</section>'
    )


def figure(title: str, content: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{content}</figure>"


def charts(figures: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(figures)}</div>'


def legend(names: Sequence[tuple[str, str]]) -> str:
    """Return which colour is whose, from names and their classes."""
    entries = "".join(f'<span class="{css}"><i></i>{escape(name)}</span>' for name, css in names)
    return f'<div class="legend">{entries}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells("th", head)}</tr>{body}</table></div>'


def cells(kind: str, texts: Sequence[str]) -> str:
    return "".join(f"<{kind}>{escape(text)}</{kind}>" for text in texts)


def verdict_css(verdict: Verdict) -> str:
    return verdict.replace(" ", "-")
