"""The pages in a stream's folder, as a reader knows them: what there is, and what is mapped."""

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import FormatError, PageGone
from common.track.folder import State
from common.track.page import PageName, parse_page_name, read_header
from common.track.view import PageCorrupt, PageView

RETRIES = 8
"""How often a list that went stale while it was made is made again."""

MAX_MAPS = 32
"""Pages a reader keeps mapped; each takes a file descriptor. The one used longest ago is let go."""


@dataclass(slots=True)
class Span:
    """A page as listed."""

    name: str
    first: int
    count: int
    sealed: bool

    @property
    def stop(self) -> int:
        """The seq behind its last record, as far as known."""
        return self.first + self.count


class Listing:
    """The held pages of all tracks, listed again when the writer says that some came or went."""

    def __init__(self, folder: Path, state: State, forget: Callable[[], None]) -> None:
        """Start with nothing; ``forget`` is called when maps were dropped."""
        self._folder = folder
        self._state = state
        self._forget = forget
        self._seen = -1
        self._spans: dict[int, list[Span]] = {}
        self._views: OrderedDict[str, PageView] = OrderedDict()
        self.generation = 0
        """Counts how often the folder was listed."""

    @property
    def tracks(self) -> list[int]:
        """The tracks that have pages, sorted."""
        return sorted(self._spans)

    @property
    def mapped(self) -> int:
        """How many pages are mapped."""
        return len(self._views)

    def close(self) -> None:
        """Drop all maps."""
        self._views.clear()
        self._forget()

    def relist(self) -> None:
        """List the folder again if the writer says that pages came or went."""
        seen = self._state.pages
        for _ in range(RETRIES):
            if seen == self._seen:
                return
            self._seen = seen
            self._list()
            # The newest page is only ever evicted after the next one was announced: what went
            # while the folder was listed can be missed, but never unnoticed.
            seen = self._state.pages

    def _list(self) -> None:
        # A sealed page never changes and its name never comes back, so it is looked at once.
        known = {span.name: span for spans in self._spans.values() for span in spans if span.sealed}
        found: dict[int, list[Span]] = {}
        for name in self._names():
            identity = parse_page_name(name)
            if identity is None:
                continue
            span = known.get(name) or self._span(name, identity)
            if span is not None:
                found.setdefault(identity.track, []).append(span)
        for spans in found.values():
            spans.sort(key=lambda span: span.first)
        self._spans = found
        self.generation += 1
        present = {span.name for spans in found.values() for span in spans}
        for name in [name for name in self._views if name not in present]:
            del self._views[name]
        self._forget()

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []

    def _span(self, name: str, identity: PageName) -> Span | None:
        try:
            header = read_header(self._folder / name)
        except (FileNotFoundError, FormatError):
            return None
        if (header.track, header.first) != identity[:2]:
            return None
        return Span(name, header.first, header.committed, header.sealed != 0)

    def spans(self, track: int) -> list[Span]:
        """Return the listed pages of a track."""
        return self._spans.get(track, [])

    def view(self, span: Span) -> PageView:
        """Return the map of a page.

        Raises:
            PageGone: If it was unlinked or is damaged.
        """
        view = self._views.get(span.name)
        if view is not None:
            self._views.move_to_end(span.name)
            return view
        try:
            view = PageView(self._folder / span.name)
        except FileNotFoundError as error:
            raise PageGone(f"page {span.name} has left the window") from error
        except FormatError as error:
            raise PageCorrupt(f"page {span.name}: {error}") from error
        if len(self._views) >= MAX_MAPS:
            self._views.popitem(last=False)
            self._forget()
        self._views[span.name] = view
        return view
