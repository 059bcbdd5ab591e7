"""The streams of this origin: the one door for everything that publishes."""

from origin.publisher import Publisher


class Streams:
    """All streams of an origin by name."""

    def __init__(self) -> None:
        self._publishers: dict[tuple[str, str], Publisher] = {}

    async def publish(
        self,
        name: str,
        key: str | None,
        *,
        slot: str = "main",
        peer: str = "",
        protocol: str = "rtmp",
    ) -> Publisher:
        """Return the publisher of one slot.

        A key maps to one stream or wildcard base. ``publish("live", KEY)`` (RTMP ``live/KEY``),
        ``publish("live+alice", KEY)`` and ``publish("live", "KEY+alice")`` all work, and a known
        key finds its stream whatever ``name`` says. ``key=None`` is for sources named in the
        configuration.

        Raises:
            AccessDenied: If the key fits no stream (after a short random delay).
            StreamNotFound: If the key fits but the name does not.
            StreamBusy: If somebody else publishes in this slot, on this origin or another one.
            NodeUnavailable: If the node has its fill of publishers or is stopping.
        """
        publisher = self._publishers.get((name, slot))
        if publisher is None:
            raise LookupError(
                f"{name}: no publisher for slot {slot} (key given: {key is not None})"
            )
        publisher.peer, publisher.protocol = peer, protocol
        return publisher
