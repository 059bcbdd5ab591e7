"""Which nodes may carry a stream: the setting ``nodes`` of the stream, as a sender enforces it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from common.errors import ConfigError
from common.runtime.config import StreamSettings, stream_settings
from common.runtime.curve import PLAIN, Guard
from common.runtime.registry import NodeEntry

Rules = Sequence[str]


class Access:
    """What a node that sends streams lets other nodes have."""

    def __init__(
        self, guard: Guard = PLAIN, rules_of: Callable[[str], Rules] = lambda _: ()
    ) -> None:
        """``rules_of`` returns the ``nodes`` of a stream; none means that all nodes may have it."""
        self._roster = guard.roster if guard.secure else None
        self._rules_of = rules_of

    def allows(self, node: str, stream: str) -> bool:
        """Return whether the node that has this name by its key may have a stream."""
        rules = self._rules_of(stream)
        if not rules:
            return True
        entry = self._roster.node(node) if self._roster else None
        return entry is not None and any(fits(rule, entry) for rule in rules)

    def state(self, streams: Iterable[str]) -> object:
        """Return something that is equal for as long as all answers are the same."""
        rules = {one: tuple(found) for one in streams if (found := self._rules_of(one))}
        return rules, self._roster.version if rules and self._roster else 0


EVERYBODY = Access()


def rules_in(streams: Mapping[str, StreamSettings], stream: str) -> Rules:
    """Return which nodes may have a stream, as its settings or those of its base say."""
    settings = stream_settings(streams, stream)
    return settings.nodes if settings is not None else ()


def fits(rule: str, entry: NodeEntry) -> bool:
    """Return whether ``NAME`` (also with ``*``), ``tag:WORD`` or ``datacenter:NAME`` is it."""
    kind, colon, value = rule.partition(":")
    if not colon:
        return fnmatchcase(entry.name, rule)
    if kind == "tag":
        return value in entry.tags
    return kind == "datacenter" and value == entry.datacenter  # the registry may say anything


def check(streams: Mapping[str, StreamSettings], secure: bool) -> None:
    """Refuse rules that cannot be understood, or that nobody could be held to.

    Raises:
        ConfigError: With the stream's name.
    """
    for name, settings in streams.items():
        where = f"streams.{name}.nodes"
        for rule in settings.nodes:
            kind, colon, value = rule.partition(":")
            if not (value if colon else rule) or (colon and kind not in ("tag", "datacenter")):
                raise ConfigError(where, f"{rule!r} is no NAME, tag:WORD or datacenter:NAME")
        if settings.nodes and not secure:
            reason = 'nodes are told apart by their keys: set node.bus_security to "curve"'
            raise ConfigError(where, reason)
