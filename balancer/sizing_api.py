"""The capacity calculator over HTTP: ``/size`` for people, ``/api/v1/size`` for scripts.

Both tell nothing of the cluster but what the balancer's machine has, if a question names no other.
"""

import hashlib
from pathlib import Path

from aiohttp import web

from balancer import figures
from balancer.sizing import Machine
from balancer.sizing_ask import answer, load
from common.errors import ConfigError, ProtocolError
from common.runtime.http import CORS
from common.runtime.logs import Log

FOLDER = Path(__file__).parent / "pages"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)

log = Log("balancer.size")


class SizingApi:
    """Answers questions, and serves the page that asks them."""

    def __init__(self, here: Machine, file: Path | None = None) -> None:
        """``here`` is the machine that is meant if none is named."""
        self._here = here
        self._figures, self._calibrated = figures.Figures(), False
        try:
            self._figures, self._calibrated = load(file)
        except ConfigError as error:
            log.warning("calibration unreadable", extra={"error": str(error)})
        self._files = {path.name: path.read_bytes() for path in FOLDER.iterdir()}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/api/v1/size", self.size),
            web.get("/size", self.page),
            web.get("/size/{file}", self.page),
        ]

    async def size(self, request: web.Request) -> web.Response:
        """Answer a question: the query has the options of ``headwater size``.

        Raises:
            ProtocolError: If it cannot be answered; says what is wrong.
        """
        try:
            told = answer(request.query.items(), self._here, self._figures, self._calibrated)
        except ConfigError as error:
            raise ProtocolError(str(error)) from error
        return web.json_response(told, headers={**CORS, "Cache-Control": "no-store"})

    async def page(self, request: web.Request) -> web.Response:
        """Send the page or one of its files."""
        name = request.match_info.get("file", "size.html")
        body = self._files.get(name)
        if body is None:
            raise web.HTTPNotFound(text="no such file\n")
        tag = hashlib.sha256(body).hexdigest()[:16]
        headers = {
            "ETag": f'"{tag}"',
            "Cache-Control": "public, max-age=300",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get("If-None-Match") == f'"{tag}"':
            return web.Response(status=304, headers=headers)
        mime = TYPES[Path(name).suffix]
        return web.Response(body=body, content_type=mime, charset="utf-8", headers=headers)
