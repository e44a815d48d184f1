"""The search space: which drafts a source can give, and how a trial picks one."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from random import Random

from autotune.candidate import Build, Candidate, DraftShape, Precision
from autotune.errors import BadRequest
from autotune.search_space.axes import Axis, Trial, parse_axis
from autotune.search_space.presets import (
    default_attention,
    default_draft_vocab,
    default_ffn,
    default_hidden,
    default_layers,
)

logger = logging.getLogger(__name__)

Params = dict[str, int | str]
Program = tuple[str, Precision]
"""A backend and a precision."""
LOOKAHEAD = "lookahead"
DRAFT_VOCAB = "draft-vocab"
FULL = "full"
"""How a user writes the whole vocabulary."""


@dataclass(frozen=True)
class Ranges:
    """The ranges a user wrote (see `parse_axis`); None leaves an axis to the preset for the source."""

    layers: str | None = None
    heads: str | None = None
    kv_heads: str | None = None
    ffn: str | None = None
    hidden: str | None = None
    lookahead: str = "0:8"
    draft_vocab: str | None = None
    """`full`, sizes, or both, with commas."""


@dataclass(frozen=True)
class SearchSpace:
    """Every draft that can be sliced from `source`, as every program, with every lookahead."""

    source: DraftShape
    layers: Axis
    attention: tuple[tuple[int, int], ...]
    """Allowed (heads, kv_heads), ascending."""
    ffn: Axis
    hidden: Axis
    draft_vocab: Axis
    """Tokens the output head covers; the source's whole vocabulary is the head that is not trimmed."""
    lookahead: Axis
    """Lookaheads of at least 1; k = 0 needs no draft and is always in the race."""
    programs: tuple[Program, ...]
    """What a shape can be compiled to; not every backend has every precision."""
    named: tuple[DraftShape, ...] = ()
    """Shapes that others published; those inside the space are tried first."""

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends of the programs."""
        return tuple(dict.fromkeys(backend for backend, _ in self.programs))

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions of the programs."""
        return tuple(dict.fromkeys(precision for _, precision in self.programs))

    @property
    def max_lookahead(self) -> int:
        """The largest lookahead in the race."""
        return self.lookahead.values[-1]

    @property
    def size(self) -> int:
        """Number of distinct builds."""
        axes = (self.layers.values, self.attention, self.ffn.values, self.hidden.values, self.draft_vocab.values)
        count = len(self.programs)
        for values in axes:
            count *= len(values)
        return count

    def suggest(self, trial: Trial) -> Candidate:
        """The candidate a trial proposes; parameters are named as the command's flags."""
        layers = self.layers.suggest(trial)
        heads, kv_heads = self._suggest_attention(trial)
        ffn, hidden = self.ffn.suggest(trial), self.hidden.suggest(trial)
        shape = self._shape(layers, (heads, kv_heads), ffn, hidden, self.draft_vocab.suggest(trial))
        return Candidate(Build(shape, *self._suggest_program(trial)), self.lookahead.suggest(trial))

    def params(self, candidate: Candidate) -> Params:
        """The parameters with which `suggest` gives this candidate."""
        shape = candidate.shape
        pair = f"{shape.heads}/{shape.kv_heads}"
        return {
            "layers": self.layers.param(shape.layers),
            "heads": self._heads_axis.param(shape.heads) if self._heads_axis else pair,
            "ffn": self.ffn.param(shape.ffn),
            "hidden": self.hidden.param(shape.hidden),
            DRAFT_VOCAB: self.draft_vocab.param(shape.head_rows),
            **self._program_params(candidate.build),
            LOOKAHEAD: self.lookahead.param(candidate.lookahead),
        }

    @property
    def smallest(self) -> DraftShape:
        """The shape with the least of everything."""
        return self._shape(
            self.layers.values[0],
            self.attention[0],
            self.ffn.values[0],
            self.hidden.values[0],
            self.draft_vocab.values[0],
        )

    @property
    def deepest(self) -> DraftShape:
        """The shape with the most of everything: beside a target whose round takes seconds, depth may cost nothing."""
        return self._shape(
            self.layers.values[-1],
            self.attention[-1],
            self.ffn.values[-1],
            self.hidden.values[-1],
            self.draft_vocab.values[-1],
        )

    def builds(self) -> Iterator[Build]:
        """Every build, `size` of them."""
        shapes = (
            self._shape(layers, attention, ffn, hidden, head_tokens)
            for layers, attention in itertools.product(self.layers.values, self.attention)
            for ffn, hidden in itertools.product(self.ffn.values, self.hidden.values)
            for head_tokens in self.draft_vocab.values
        )
        return (Build(shape, *program) for shape, program in itertools.product(shapes, self.programs))

    def draw(self, rng: Random) -> Candidate:
        """A candidate, each as likely as any other."""
        shape = self._shape(
            rng.choice(self.layers.values),
            rng.choice(self.attention),
            rng.choice(self.ffn.values),
            rng.choice(self.hidden.values),
            rng.choice(self.draft_vocab.values),
        )
        build = Build(shape, *rng.choice(self.programs))
        return Candidate(build, rng.choice(self.lookahead.values))

    def seeds(self) -> list[Candidate]:
        """Candidates worth trying before the sampler knows anything: wide and shallow, at a middling lookahead.

        The research this tool follows found wide, shallow drafts to win; each is tried at full and at half FFN width.
        Of the smaller vocabularies only the shallowest and widest draft is tried: there the head weighs most.
        Published shapes come before all.  The largest one comes last: where it is the whole source, which may be the
        target, it is the draft to beat when quantised.
        """
        middle = self.lookahead.values[len(self.lookahead.values) // 2]
        widths = dict.fromkeys([self.ffn.values[-1], self.ffn.values[(len(self.ffn.values) - 1) // 2]])
        *smaller, largest = self.draft_vocab.values
        points = [(layers, ffn, largest) for layers, ffn in itertools.product(self.layers.values[:3], widths)]
        points += [(self.layers.values[0], self.ffn.values[-1], size) for size in reversed(smaller)]
        usual = [
            self._shape(layers, self.attention[-1], ffn, self.hidden.values[-1], size) for layers, ffn, size in points
        ]
        shapes = dict.fromkeys([*(shape for shape in self.named if shape in self), *usual, self.deepest])
        return [Candidate(Build(shape, *program), middle) for program in self.programs for shape in shapes]

    def __contains__(self, shape: DraftShape) -> bool:
        """Whether the search can propose the shape."""
        return (
            shape.layers in self.layers.values
            and (shape.heads, shape.kv_heads) in self.attention
            and shape.ffn in self.ffn.values
            and shape.hidden in self.hidden.values
            and shape.head_rows in self.draft_vocab.values
            and shape
            == replace(
                self.source,
                layers=shape.layers,
                heads=shape.heads,
                kv_heads=shape.kv_heads,
                ffn=shape.ffn,
                hidden=shape.hidden,
                draft_vocab=shape.draft_vocab,
            )
        )

    @property
    def _heads_axis(self) -> Axis | None:
        """The heads alone, if they determine the kv heads."""
        heads = tuple(heads for heads, _ in self.attention)
        return Axis("heads", heads) if len(set(heads)) == len(heads) else None

    def _suggest_attention(self, trial: Trial) -> tuple[int, int]:
        if self._heads_axis:
            return self.attention[self._heads_axis.values.index(self._heads_axis.suggest(trial))]
        chosen = trial.suggest_categorical("heads", [f"{heads}/{kv_heads}" for heads, kv_heads in self.attention])
        heads, kv_heads = (int(part) for part in chosen.split("/"))
        return heads, kv_heads

    @property
    def _free_programs(self) -> bool:
        """Whether every backend has every precision, so that they can be chosen one by one."""
        return len(self.programs) == len(self.backends) * len(self.precisions)

    def _suggest_program(self, trial: Trial) -> Program:
        if self._free_programs:
            backend = trial.suggest_categorical("backend", self.backends)
            return backend, Precision(trial.suggest_categorical("precision", [p.value for p in self.precisions]))
        chosen = trial.suggest_categorical("backend", [f"{backend}/{p.value}" for backend, p in self.programs])
        backend, _, precision = chosen.partition("/")
        return backend, Precision(precision)

    def _program_params(self, build: Build) -> Params:
        """The parameters with which `_suggest_program` gives the build's program."""
        if self._free_programs:
            return {"backend": build.backend, "precision": build.precision.value}
        return {"backend": f"{build.backend}/{build.precision.value}"}

    def _shape(self, layers: int, attention: tuple[int, int], ffn: int, hidden: int, head_tokens: int) -> DraftShape:
        heads, kv_heads = attention
        draft_vocab = None if head_tokens == self.source.vocab else head_tokens
        return replace(
            self.source,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            ffn=ffn,
            hidden=hidden,
            draft_vocab=draft_vocab,
        )


def make_space(
    source: DraftShape,
    ranges: Ranges,
    backends: tuple[str, ...],
    precisions: tuple[Precision, ...],
    supported: Mapping[str, Set[Precision]] | None = None,
    named: Sequence[DraftShape] = (),
) -> SearchSpace:
    """The space of drafts of `source` inside the user's ranges; BadRequest where nothing is left.

    `supported`: the precisions each backend has; all of them if None.  `named`: published shapes, worth trying first.
    Values beyond the source are left out with a warning: a pruned draft cannot be larger than what it is cut from.
    """
    lookahead = parse_axis(LOOKAHEAD, ranges.lookahead, smallest=0)
    if lookahead.values[-1] == 0:
        raise BadRequest("--lookahead 0 alone leaves nothing to search: k = 0 is the target without a draft")
    return SearchSpace(
        source=source,
        layers=_axis("layers", ranges.layers, default_layers(source), source.layers),
        attention=_attention(ranges, source),
        ffn=_axis("ffn", ranges.ffn, default_ffn(source), source.ffn),
        hidden=_axis("hidden", ranges.hidden, default_hidden(source), source.hidden),
        draft_vocab=_draft_vocab(ranges.draft_vocab, source),
        lookahead=Axis(LOOKAHEAD, tuple(k for k in lookahead.values if k)),
        programs=tuple(
            (backend, precision)
            for precision, backend in itertools.product(dict.fromkeys(precisions), dict.fromkeys(backends))
            if supported is None or precision in supported[backend]
        ),
        named=tuple(named),
    )


def _axis(name: str, text: str | None, default: tuple[int, ...], largest: int) -> Axis:
    if text is None:
        return Axis(name, default)
    asked = parse_axis(name, text)
    if asked.values[0] > largest:
        raise BadRequest(f"--{name} {text}: the source has only {largest}; a pruned draft cannot have more")
    kept = asked.within(largest)
    if kept != asked:
        logger.warning("--%s %s: values above the source's %d are left out", name, text, largest)
    return kept


def _draft_vocab(text: str | None, source: DraftShape) -> Axis:
    """The sizes a user wrote; `full`, and whatever is at least as large, is the source's whole vocabulary."""
    if text is None:
        return Axis(DRAFT_VOCAB, default_draft_vocab(source))
    words = [word.strip() for word in text.split(",")]
    try:
        sizes = {source.vocab if word == FULL else int(word) for word in words}
    except ValueError:
        sizes = set()
    if min(sizes, default=0) < 1:
        raise BadRequest(
            f"--{DRAFT_VOCAB} {text}: write {FULL}, numbers of tokens of at least 1, or both, separated by commas"
        )
    return Axis(DRAFT_VOCAB, tuple(sorted({min(size, source.vocab) for size in sizes})))


def _attention(ranges: Ranges, source: DraftShape) -> tuple[tuple[int, int], ...]:
    """Pairs (heads, kv_heads): whole kv groups are kept, each with at most the source's query heads."""
    heads = None if ranges.heads is None else _axis("heads", ranges.heads, (), source.heads).values
    kv_heads = None if ranges.kv_heads is None else _axis("kv-heads", ranges.kv_heads, (), source.kv_heads).values
    if heads is None and kv_heads is None:
        return default_attention(source)
    group = source.heads // source.kv_heads
    pairs = sorted(
        (kv * size, kv)
        for kv in (kv_heads or range(1, source.kv_heads + 1))
        for size in range(1, group + 1)
        if heads is None or kv * size in heads
    )
    if not pairs:
        asked = {"--heads": ranges.heads, "--kv-heads": ranges.kv_heads}
        flags = " ".join(f"{flag} {text}" for flag, text in asked.items() if text is not None)
        raise BadRequest(
            f"{flags}: the heads do not divide into groups of at most {group}, "
            f"the source's ({source.heads} heads, {source.kv_heads} kv heads)"
        )
    if kv_heads is None:  # the most kv heads for each number of heads: the least is lost
        pairs = sorted({count: (count, kv) for count, kv in pairs}.values())
    return tuple(pairs)
