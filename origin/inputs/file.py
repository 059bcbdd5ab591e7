"""Files played as live streams: ``source = "file:///srv/loop.mp4"`` or a plain path."""

from typing import ClassVar

from common.errors import HeadwaterError
from common.runtime.logs import Log
from origin.child import publish_child
from origin.files.source import parse_source
from origin.input import Input

CHILD = "origin.files.child"


class FileInput(Input):
    """Plays a file at its own speed in a child process, in a loop unless told otherwise."""

    description: ClassVar[str] = "file played as a live stream"
    schemes: ClassVar[tuple[str, ...]] = ("file", "")

    @classmethod
    def check(cls, source: str) -> None:
        """Refuse a source whose form or options are wrong.

        Raises:
            ConfigError: If it cannot be read.
        """
        parse_source(source)

    async def run(self) -> None:
        """Do nothing: files are fetched, nobody sends them."""

    async def pull(self, stream: str, source: str) -> None:
        """Play ``source`` as ``stream`` until its end, or for ever.

        Raises:
            ConfigError: If the source cannot be read.
            HeadwaterError: If it cannot be published or played.
        """
        parse_source(source)
        publisher = await self.streams.publish(stream, None, protocol="file")
        reason, ended = "stopped", False
        try:
            await publish_child(CHILD, [source], publisher, Log("origin.file", stream=stream))
            reason, ended = "the file is over", True
        except HeadwaterError as error:
            reason = str(error)
            raise
        finally:
            publisher.close(reason, ended)
