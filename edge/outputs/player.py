"""The player: ``/{stream}.html``, its script and style, and hls.js if it is installed.

The page is the same bytes for every stream; the script takes the name from the address and sets it
as text. So no name ever becomes markup, and the policy allows no inline script.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from common.names import check_name
from common.runtime.logs import Log
from edge.output import Capability, Output

FOLDER = Path(__file__).parent.parent / "player"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
CACHE = "public, max-age=300"

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src http: https: ws: wss:",  # other edges, and the balancer
        "media-src 'self' blob:",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
"""Content-Security-Policy of the page; it may be framed by anybody, being an embed page."""

HLS_FILES = ("hls.min.js", "dist/hls.min.js", "hls.js")
MAX_FILE = 4 * 1024 * 1024
"""Bytes of a script of the player page. A larger file is not served."""

log = Log("edge.player")


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    mime: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> "Asset":
        """Read a file."""
        body = path.read_bytes()
        return cls(body, TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:16])

    def response(self, request: web.Request, **headers: str) -> web.Response:
        """Return the file, or 304 if the browser has it."""
        all_headers = {
            "ETag": f'"{self.tag}"',
            "Cache-Control": CACHE,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            **headers,
        }
        if f'"{self.tag}"' in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=all_headers)
        return web.Response(
            body=self.body, headers=all_headers, content_type=self.mime, charset="utf-8"
        )


class Player(Output):
    """A page to watch a stream on, and to embed."""

    capability = Capability(description="Player page", url="")
    _page: Asset
    _script: Asset
    _parts: dict[str, Asset]
    _hls: Asset | None = None

    async def start(self) -> None:
        """Read the files of the player, and look for hls.js."""
        self._page = Asset.read(FOLDER / "player.html")
        self._script = Asset.read(FOLDER / "player.js")
        self._parts = {
            path.name: Asset.read(path)
            for path in FOLDER.iterdir()
            if path.suffix in (".js", ".css") and path.name != "player.js"
        }
        path = find_hls(self.context.settings.hls_js)
        if path is None:
            log.info("player without hls.js", extra={"setting": "edge.hls_js"})
        else:
            self._hls = Asset.read(path)

    def routes(self) -> Iterable[web.RouteDef]:
        """Answer the page and its files."""
        return [
            web.get("/{stream}.html", self.page),
            web.get("/player.js", self.script),
            web.get("/player/{file}", self.part),
            web.get("/hls.js", self.library),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """Send the page, whether the stream is live or not: it waits by itself."""
        check_name(request.match_info["stream"])
        return self._page.response(request, **{"Content-Security-Policy": POLICY})

    async def script(self, request: web.Request) -> web.Response:
        """Send the player's main script."""
        return self._script.response(request)

    async def part(self, request: web.Request) -> web.Response:
        """Send another file of the player."""
        asset = self._parts.get(request.match_info["file"])
        if asset is None:
            raise web.HTTPNotFound(text="no such file\n")
        return asset.response(request)

    async def library(self, request: web.Request) -> web.Response:
        """Send hls.js, if it is installed."""
        if self._hls is None:
            raise web.HTTPNotFound(text="hls.js is not installed; set edge.hls_js\n")
        return self._hls.response(request)


def find_hls(setting: str) -> Path | None:
    """Return where hls.js is: what the setting names, else a ``node_modules`` nearby."""
    for place in [Path(setting)] if setting else _places():
        for path in (place, *(place / name for name in HLS_FILES)):
            if path.suffix == ".js" and path.is_file() and path.stat().st_size <= MAX_FILE:
                return path
    return None


def _places() -> Iterator[Path]:
    for folder in (Path(os.getcwd()), *Path(__file__).resolve().parents):
        yield folder / "node_modules" / "hls.js" / "dist"
