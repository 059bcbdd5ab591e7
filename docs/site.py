"""Build the documentation as a site: ``python -m docs.site FOLDER`` (``make site``).

Every Markdown file of ``docs`` becomes a page; links between them and anchors stay. No script, no
font or style from elsewhere: the folder can be served, or opened, as it is.
"""

import html
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

DOCS = Path(__file__).parent

CHAPTERS = (
    ("Tutorials", "tutorials"),
    ("How to", "how-to"),
    ("Reference", "reference"),
    ("Explanation", "explanation"),
    ("Runbooks", "runbooks"),
    ("Decisions", "adr"),
)
"""What the navigation shows, after Diátaxis; pages in the root are references."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark">
<title>{title} - Headwater</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{root}site.css">
</head>
<body>
<header>
<a href="{root}index.html">Headwater</a><a href="#menu" class="to-menu">Contents</a>
</header>
<main>{body}</main>
<nav id="menu" aria-label="Contents">{menu}</nav>
</body>
</html>
"""


def title_of(text: str) -> str:
    """Return the first heading of a page."""
    match = re.search(r"^# (.+)$", text, re.MULTILINE)
    return match[1].replace("`", "") if match else "Headwater"


def pages(folder: Path = DOCS) -> dict[str, str]:
    """Return the text of every page by its path."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*.md"))}


def anchor(text: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def render(text: str, known: Sequence[str], path: str) -> str:
    """Return the HTML of a page; links to Markdown files lead to their pages."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(re.sub(r"^<!--.*?-->\n", "", text, flags=re.MULTILINE))
    for here, after in pairwise(tokens):
        if here.type == "heading_open":
            here.attrSet("id", anchor(after.content))
        for child in here.children or ():
            _relink(child, known, path)
    rendered = str(markdown.renderer.render(tokens, markdown.options, {}))
    return rendered.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )


def _relink(token: Token, known: Sequence[str], path: str) -> None:
    target = str(token.attrGet("href") or "")
    place, hash_, part = target.partition("#")
    if token.type == "link_open" and place.endswith(".md") and ":" not in place:
        inside = _resolved(path, place) in known
        token.attrSet("href", f"{place[:-3]}.html{hash_}{part}" if inside else target)


def _resolved(path: str, target: str) -> str:
    parts = list(Path(path).parent.parts)
    for part in Path(target).parts:
        if part == "..":
            parts = parts[:-1] if parts else ["outside"]
        else:
            parts.append(part)
    return "/".join(parts)


def menu(texts: dict[str, str], here: str, root: str) -> str:
    """Return the navigation of a page."""
    found = [_link("index.md", "Start", here, root)]
    for name, folder in CHAPTERS:
        inside = [path for path in texts if path.startswith(f"{folder}/")]
        if folder == "reference":
            inside += [path for path in texts if "/" not in path and path != "index.md"]
        links = "".join(_link(path, title_of(texts[path]), here, root) for path in inside)
        shown = " open" if here in inside or folder not in ("adr", "runbooks") else ""
        found.append(f"<details{shown}><summary>{name}</summary>{links}</details>")
    return "".join(found)


def _link(path: str, title: str, here: str, root: str) -> str:
    current = ' aria-current="page"' if path == here else ""
    return f'<a href="{root}{path[:-3]}.html"{current}>{html.escape(title)}</a>'


def build(out: Path, folder: Path = DOCS) -> int:
    """Write the site into a folder; return how many pages it has."""
    texts = pages(folder)
    for path, text in texts.items():
        root = "../" * path.count("/")
        page = PAGE.format(
            title=html.escape(title_of(text)),
            root=root,
            menu=menu(texts, path, root),
            body=render(text, tuple(texts), path),
        )
        target = out / f"{path[:-3]}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page)
    for asset in ("site.css", "configuration.schema.json"):
        (out / asset).write_bytes((folder / asset).read_bytes())
    return len(texts)


if __name__ == "__main__":
    sys.stdout.write(f"{build(Path(sys.argv[1]))} pages in {sys.argv[1]}\n")
