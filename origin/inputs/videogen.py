"""The built-in test stream: ``source = "videogen://?size=640x360&fps=25&gop=2s"``."""

from typing import ClassVar

from common.errors import HeadwaterError
from common.runtime.logs import Log
from origin.child import publish_child
from origin.input import Input
from origin.videogen.settings import parse_source

CHILD = "origin.videogen.child"


class VideogenInput(Input):
    """Generates in a child process: moving picture, burnt-in clock, beep, metadata."""

    description: ClassVar[str] = "generated test stream"
    schemes: ClassVar[tuple[str, ...]] = ("videogen",)

    @classmethod
    def check(cls, source: str) -> None:
        """Refuse a source whose form or options are wrong.

        Raises:
            ConfigError: If it cannot be read.
        """
        parse_source(source)

    async def run(self) -> None:
        """Do nothing: the test stream is fetched, nobody sends it."""

    async def pull(self, stream: str, source: str) -> None:
        """Generate ``source`` and publish it as ``stream`` until cancelled.

        Raises:
            ConfigError: If the source cannot be read.
            HeadwaterError: If it cannot be published, or the generator failed.
        """
        parse_source(source)
        publisher = await self.streams.publish(stream, None, protocol="videogen")
        reason = "stopped"
        try:
            log = Log("origin.videogen", stream=stream)
            await publish_child(CHILD, [source], publisher, log)
        except HeadwaterError as error:
            reason = str(error)
            raise
        finally:
            publisher.close(reason)
