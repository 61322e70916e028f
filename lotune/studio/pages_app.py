"""The pages of a studio: a fixed table of files, and the report of a run as a page that can do nothing."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse

from lotune.studio.errors import not_found
from lotune.studio.studio import Studio

PAGES = ("runs", "new", "run", "compare")
OWN_FILES = (*(f"{name}.js" for name in PAGES), "studio.js", "studio.css", "studio-texts.js", "settings-zh.js")
SHARED_FILES = ("common.js", "texts.js", "curves.js", "style.css")
"""Files of the pages of `lotune serve`, which the studio's pages use, too."""
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What the pages may load: nothing from another place, no inline script."""
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""What a report may do: nothing but show itself."""


def page_files() -> Mapping[str, bytes]:
    """Return the contents of all files by the path in the address."""
    own = importlib.resources.files("lotune.studio") / "pages"
    shared = importlib.resources.files("lotune.serve") / "pages"
    return {
        **{name: (own / f"{name}.html").read_bytes() for name in PAGES},
        **{name: (own / name).read_bytes() for name in OWN_FILES},
        **{name: (shared / name).read_bytes() for name in SHARED_FILES},
    }


def add_pages(app: FastAPI, studio: Studio) -> None:
    """Add the pages to an application."""
    contents = page_files()

    @app.get("/", include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse("/runs")

    @app.get("/report/{run}", include_in_schema=False)
    async def report(run: str) -> Response:
        path = studio.runs.folder(run) / "report.html"
        if not path.is_file() or not studio.workspace.contains(path):
            raise not_found(f"a report of {run}")
        return Response(path.read_bytes(), media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get("/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        if name not in contents:
            raise not_found(name)
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return Response(contents[name], media_type=TYPES[Path(name).suffix or ".html"], headers=headers)
