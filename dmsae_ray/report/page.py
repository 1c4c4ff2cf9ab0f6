"""The shell of a self-contained HTML page: sections, one style, no network.

A page works from a file, and in MLflow's artifact pane. Its policy forbids it to load anything: pictures are data URIs.
Who writes a section escapes what comes from data (`html.escape`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light; --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --tint: #f6f8fa; --accent: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.5rem 4rem; color: var(--ink); background: white;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 1rem 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: .5rem 0; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { background: var(--tint); font-weight: 600; }
.wide { overflow-x: auto; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: var(--tint); }
small.range { display: block; color: var(--soft); white-space: nowrap; font-size: .8rem; }
figure { margin: 1.5rem 0 2rem; } figure h3 { margin: 0 0 .4rem; }
figcaption { color: var(--soft); max-width: 60rem; font-size: .93rem; }
figure img, figure svg { max-width: 100%; height: auto; }
.soft { color: var(--soft); }
.finding { font-size: 1.12rem; max-width: 60rem; border-left: 4px solid var(--accent); padding: .1rem 0 .1rem 1rem; }
p { max-width: 60rem; }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        anchor: Its id in the page: letters, digits and '-'.
        title: Its heading, plain text.
        body: HTML.
        style: CSS that only this section needs.
        script: JavaScript, run once after the page is read.
    """

    anchor: str
    title: str
    body: str
    style: str = ""
    script: str = ""


def page(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """Return a whole HTML document.

    Args:
        title: Its title, plain text.
        sections: Its parts, in order; links to them stand at the top.
        lead: HTML between the title and the links, such as the finding in one sentence.
    """
    links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    parts = "\n".join(f'<section id="{s.anchor}">\n<h2>{escape(s.title)}</h2>\n{s.body}\n</section>' for s in sections)
    scripts = "\n".join(f"<script>\n(() => {{\n{s.script}\n}})();\n</script>" for s in sections if s.script)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}{"".join(s.style for s in sections)}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{lead}
<nav>{links}</nav>
{parts}
{scripts}
</body>
</html>
"""
