"""What drafts for a target, as data, and the decoder it makes of the two."""

from dataclasses import dataclass
from pathlib import Path

from autotune.candidate import Lookup
from autotune.runtime.adaptive import AdaptiveDrafter
from autotune.runtime.decode import Decoder
from autotune.runtime.drafter import Drafter, ModelDrafter
from autotune.runtime.lookup import open_lookup
from autotune.runtime.lookup_first import LookupFirstDrafter
from autotune.runtime.session import Session, open_session
from autotune.stopping import AdaptivePlan


@dataclass(frozen=True)
class Pairing:
    """A draft program, a drafter without a model, or one asked where the other finds nothing; neither: k = 0."""

    program: str | None
    """Folder of the draft's program."""
    lookahead: int
    """The draft's, where there is one."""
    adaptive: AdaptivePlan | None = None
    """Chooses the lookahead of the draft's every round, up to `lookahead`."""
    lookup: Lookup | None = None
    lookup_lookahead: int | None = None
    """The lookup's own; None: the same."""

    @property
    def most(self) -> int:
        """Tokens that a round proposes at most."""
        return max(self.lookahead, self.lookup_lookahead or 0)

    def decoder(self, target: Session, threads: int) -> Decoder:
        """The target with what drafts for it, opened; ArtifactError if the program cannot be run."""
        return Decoder(target, self._drafter(target.program.shape.vocab, threads), self.most)

    def _drafter(self, vocab: int, threads: int) -> Drafter | None:
        lookup = open_lookup(self.lookup, vocab) if self.lookup else None
        if self.program is None:
            return lookup
        session = open_session(Path(self.program), threads)
        draft = AdaptiveDrafter(session, self.adaptive) if self.adaptive else ModelDrafter(session)
        if lookup is None:
            return draft
        return LookupFirstDrafter(lookup, self.lookup_lookahead or self.lookahead, draft, self.lookahead)
