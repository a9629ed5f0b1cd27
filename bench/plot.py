# SPDX-License-Identifier: Apache-2.0
"""The results as a picture: bars of wall, CPU, bytes and memory, in SVG, which needs no library."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape

from bench.report import LOCAL
from bench.results import Results, Run, Series

_WIDTH, _NAMES, _ROW, _BAR, _TOP = 1000, 250, 22, 13, 64
_OURS, _OTHERS, _IDEAL = "#1a73b8", "#9aa5ad", "#222222"


@dataclass(frozen=True)
class _Panel:
    title: str
    value: Callable[[Run], float]
    digits: int


_PANELS = (
    _Panel("Wall, s (stroke: ideal)", lambda run: run.wall_s, 1),
    _Panel("CPU, s", lambda run: run.cpu_s, 1),
    _Panel("Sent, MB", lambda run: run.sent / 10**6, 0),
    _Panel("Memory, MiB", lambda run: run.memory / 2**20, 0),
)


def plot(results: Results, series: Series) -> str:
    """Return a picture of one series; a stroke in a bar of the wall shows the ideal."""
    height = _TOP + _ROW * len(series.runs) + 12
    width = (_WIDTH - _NAMES) / len(_PANELS)
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" '
        'font-size="12" fill="#222222">' % (_WIDTH, height),
        '<rect width="%d" height="%d" fill="#ffffff"/>' % (_WIDTH, height),
        _text(8, 22, series.title, 'font-size="15" font-weight="bold"'),
    ]
    for row, method in enumerate(series.runs):
        lines.append(_text(8, _TOP + _ROW * row + _BAR - 2, method))
    for column, panel in enumerate(_PANELS):
        lines += _panel(results, series, panel, _NAMES + column * width, width)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(
    results: Results, series: Series, panel: _Panel, left: float, width: float
) -> Iterator[str]:
    values = {method: panel.value(series.median(method)) for method in series.runs}
    scale = (width - 62) / max([*values.values(), 1e-9])
    yield _text(left, _TOP - 12, panel.title, 'font-weight="bold"')
    for row, (method, value) in enumerate(values.items()):
        top = _TOP + _ROW * row
        colour = _OURS if method.startswith("stream") else _OTHERS
        yield '<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>' % (
            left, top, max(value * scale, 1), _BAR, colour,
        )  # fmt: skip
        yield _text(left + value * scale + 4, top + _BAR - 2, "%.*f" % (panel.digits, value))
        if panel is _PANELS[0]:
            ideal = series.ideal_s(series.median(method), results.cores, local=method in LOCAL)
            yield '<rect x="%.1f" y="%d" width="2" height="%d" fill="%s"/>' % (
                left + ideal * scale - 1, top - 2, _BAR + 4, _IDEAL,
            )  # fmt: skip


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return '<text x="%.1f" y="%.1f" %s>%s</text>' % (x, y, more, escape(text))
