"""Cutting streamed text at stop strings."""

from collections.abc import Sequence

from autotune.errors import BadRequest


class StopStrings:
    """Passes text on until one of the stop strings appears; holds back what may become the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise BadRequest("a stop string is empty")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        """Whether a stop string was found; nothing passes any more."""

    def push(self, text: str) -> str:
        """The text that is now certain to come before any stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for at in map(self._held.find, self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        certain = len(self._held) - self._overlap()
        passed, self._held = self._held[:certain], self._held[certain:]
        return passed

    def finish(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = ("" if self.stopped else self._held), ""
        return held

    def _overlap(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for length in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
