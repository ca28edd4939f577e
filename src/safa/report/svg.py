"""matplotlib figures as inline SVG that takes its colours and font from the page's style sheet.

A figure is drawn once in placeholder colours. In the SVG each placeholder becomes a CSS variable, so one
chart serves the light page, the dark page and the printed page.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable
from hashlib import sha256
from importlib import resources
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDE, NARROW = 860, 360  # CSS pixels: a column of text on a desk, a phone held upright
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")  # by a method's number in the palette

_COLOURS = (
    *("ink", "muted", "rule", "paper", "right"),
    *("many", "medium", "few"),
    *(f"method-{index}" for index in range(8)),
    *(f"class-{index}" for index in range(5)),
)
_STYLE = {
    "svg.hashsalt": "safa",  # the same page every time
    "svg.fonttype": "none",  # text stays text: it can be searched, and follows the page's font
    "text.parse_math": False,  # a class may be called "$5"
    "font.family": "DejaVu Sans",  # comes with matplotlib; measures a little wider than what browsers use
    "font.size": 12,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
}
_TAG = re.compile(r"<[^>]*>")  # and not the text between: a class may be called "#5afa01"
_P = ParamSpec("_P")


def colour(name: str) -> str:
    """The placeholder of a colour of the style sheet; an unknown name is a defect."""
    return f"#5afa{_COLOURS.index(name):02x}"


def themed(draw: Callable[_P, Figure]) -> Callable[_P, str]:
    """Turn a function that draws a figure into one that returns inline SVG."""

    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> str:
        inks = {key: colour("muted") for key in ("axes.edgecolor", "xtick.color", "ytick.color")}
        labels = {key: colour("ink") for key in ("text.color", "axes.labelcolor", "axes.titlecolor")}
        grid = {"grid.color": colour("rule"), "grid.linewidth": 0.8}
        with mpl.rc_context({**_STYLE, **inks, **labels, **grid}), warnings.catch_warnings():
            # The browser's fonts have the class names' letters, even where matplotlib's own has not.
            warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
            return _inline(draw(*args, **kwargs))

    return drawn


def blank(width: int, height: float) -> Figure:
    """A figure whose units are CSS pixels at full width."""
    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def _inline(figure: Any) -> str:
    buffer = io.StringIO()
    # Not savefig, which lays the figure out and draws it a second time.
    FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    prefix = "s" + sha256(text.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', "".join(_TAG.findall(text))))
    text = _TAG.sub(lambda tag: _for_a_page(tag[0], prefix, used), text)
    text = re.sub(r">\s+<", "><", text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    return re.sub(r"<svg[^>]*>", f'<svg class="chart" {view[0]} aria-hidden="true">', text, count=1)


def _for_a_page(tag: str, prefix: str, used: set[str]) -> str:
    """One tag of a figure with the page's colours, font and number of digits.

    Of the ids only those are kept that something refers to, and made unique on a page with many charts.
    """
    tag = re.sub(r' id="([^"]*)"', lambda match: f' id="{prefix}{match[1]}"' if match[1] in used else "", tag)
    tag = re.sub(r'(href="|url\()#([^")]+)', rf"\g<1>#{prefix}\g<2>", tag)
    tag = re.sub(r"#5afa([0-9a-f]{2})", lambda match: f"var(--{_COLOURS[int(match[1], 16)]})", tag)
    tag = re.sub(r"font-family: [^;\"]*;?", "", tag)
    tag = re.sub(r'\s(d|x|y)="([^"]*)"', lambda match: f' {match[1]}="{_rounded(match[2])}"', tag)
    return re.sub(r"transform=\"rotate\(-0 [^)]*\)\"", "", tag)


def _rounded(numbers: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), numbers)


def shortened(text: str, most: int) -> str:
    """The text, cut to ``most`` characters where it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def style_sheet(name: str) -> str:
    """The text of a style sheet of this package."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def standalone(svg: str, description: str) -> str:
    """An inline SVG as a file of its own: with the page's colours, by day and by night, and what it shows in words."""
    font = 'text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }'
    head = f"<title>{html.escape(description)}</title><style>{style_sheet('colours.css')}{font}</style>"
    opening = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
    inline = re.compile(r'<svg class="chart" (viewBox="[^"]*") aria-hidden="true">')
    return inline.sub(lambda match: f"{opening} {match[1]}>{head}", svg, count=1) + "\n"


def responsive(draw: Callable[[int], str], description: str) -> str:
    """Draw for the desk and for the phone; the style sheet shows the one that fits."""
    label = html.escape(description)
    return (
        f'<div class="plot wide" role="img" aria-label="{label}">{draw(WIDE)}</div>'
        f'<div class="plot narrow" role="img" aria-label="{label}">{draw(NARROW)}</div>'
    )
