"""Endless HTTP responses: one handler for every progressive output.

aiohttp routes and prepares the response; from then on the hub writes to its transport, chunked
transfer coding included (RFC 9112 section 7.1), and the handler only waits for the end.
"""

from aiohttp import web
from aiohttp.http import HttpVersion11

from common.runtime.http import CORS
from edge.feed import Format
from edge.output import ViewerContext
from edge.selection import Selection

HEADERS = {"Cache-Control": "no-store", "Accept-Ranges": "none", **CORS}


def chunked(data: bytes) -> bytes:
    """Return ``data`` as one chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(data: bytes) -> bytes:
    """Return ``data``: HTTP/1.0 clients read to the end of the connection."""
    return data


async def serve(
    context: ViewerContext, request: web.Request, chunks: Format, raw: Format, mime: str
) -> web.StreamResponse:
    """Send a stream in a format until the viewer leaves or the stream ends.

    ``chunks`` frames its bytes for HTTP/1.1, ``raw`` for HTTP/1.0. A range that begins at 0 is
    answered with all there is, as a player expects that probes a live file.

    Raises:
        StreamNotFound: If the stream is not live.
        TrackUnsupported: If the format carries none of its tracks.
    """
    mirror = await context.mirrors.get(request.match_info["stream"])
    form = chunks if request.version >= HttpVersion11 else raw
    selection = Selection.of(request.query)
    await context.hub.ready(mirror, selection, form, context.settings.wait)
    response = web.StreamResponse(headers={"Content-Type": mime, **HEADERS})
    if form is chunks:
        response.enable_chunked_encoding()
    else:
        response.force_close()
    await response.prepare(request)
    transport = request.transport
    if request.method == "HEAD" or transport is None:
        return response
    session = context.sessions.open(mirror.stream, form.protocol, request)
    viewer = context.hub.join(mirror, selection, form, transport, session)
    try:
        await viewer.done
    finally:
        context.hub.leave(viewer)
    return response
