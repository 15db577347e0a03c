"""One HTML file from a template: styles and scripts inside, and a policy that lets nothing else run.

Whatever a model, a data set or a recipe wrote reaches the page escaped, or as JSON that the page's script puts
in as text. The policy names the hash of every script and style, allows images from data URIs only, and forbids
scripts to write HTML at all.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

import orchestrator
from eval import comparison, timeline
from eval.record import number
from eval.report import bars, chart

TEMPLATES = Path(__file__).parent / "templates"
STYLE = "style.css"
TAG = re.compile(r"<(/?)(think|answer|perception|info\d{0,3})>|(\\boxed\{[^{}\n]{0,200}\})|<\|[a-z_]{1,24}\|>")


def render(template: str, scripts: Sequence[str], blocks: Mapping[str, str] | None = None, **known: Any) -> str:
    """Return a page.

    Args:
        template: Its file.
        scripts: Files of its scripts, in the order in which they run.
        blocks: Data for them by the id of its element; nothing in it may be HTML.
        known: What the template shows.
    """
    contents = [Markup(_asset(name)) for name in scripts]  # ours
    style = _asset(STYLE)
    page = _environment().get_template(template)
    return page.render(
        **known,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        version=orchestrator.__version__,
        python=platform.python_version(),
        policy=_policy(contents, style),
        style=Markup(style),
        scripts=contents,
        blocks=Markup("\n").join(_block(name, text) for name, text in (blocks or {}).items()),
    )


def marked(text: str) -> Markup:
    """Return text of a model, escaped, with the tags we know and the boxed answer coloured.

    A tag that is never closed colours what follows it; a stray closing tag is shown as it stands.
    """
    parts: list[Markup] = []
    open_tags: list[str] = []
    position = 0
    for match in TAG.finditer(text):
        parts.append(escape(text[position : match.start()]))
        parts.append(_mark(match, open_tags))
        position = match.end()
    parts.append(escape(text[position:]))
    parts += [Markup("</span>")] * len(open_tags)
    return Markup("").join(parts)


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
    allowed = " ".join(_digest(script) for script in scripts)
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _block(name: str, text: str) -> Markup:
    return Markup('<script type="text/plain" id="{}">{}</script>').format(name, text)


def _environment() -> Environment:
    page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {
        "number": _number,
        "signed": _signed,
        "mean": lambda value: f"{value:.3f}" if value == value else "–",
        "percent": lambda value: f"{100 * value:.1f} %" if value == value else "–",
        "points": lambda value: f"{100 * value:+.1f}" if value == value else "–",
        "thousands": lambda value: f"{value:,}",
        "seconds": timeline.seconds,
        "size": lambda value: f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB",
        "clock": lambda at: datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S"),
        "date": lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "p_value": comparison.p_value,
        "kind": timeline.kind,
        "fields": _fields,
        "lane": bars.lane,
        "symbol": bars.symbol,
        "shares": bars.shares,
        "whiskers": bars.whiskers,
    }
    return page


def _number(value: Any) -> str:
    found = number(value)
    return chart.short(found) if found == found else "–"


def _signed(value: Any) -> str:
    found = number(value)
    return f"{found:+.3f}" if found == found else "–"


def _fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value}" for key, value in fields.items() if key not in ("role", "replica") and value != ""
    )


def _mark(match: re.Match[str], open_tags: list[str]) -> Markup:
    closing, name, boxed = match.groups()
    if boxed:
        return Markup('<b class="boxed">{}</b>').format(boxed)
    tag = Markup('<b class="tag">{}</b>').format(match.group(0))
    if name is None:
        return tag
    style = "info" if name.startswith("info") else name
    if not closing:
        open_tags.append(name)
        return Markup('<span class="in-{}">').format(style) + tag
    if open_tags and open_tags[-1] == name:
        open_tags.pop()
        return tag + Markup("</span>")
    return tag
