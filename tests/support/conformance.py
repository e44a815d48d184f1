"""What every compiler backend must do.  A backend's test module inherits `BackendConformance` and names the backend.

The class may also name a device, and then the precision that is held to transformers' own results there and how
closely; everything else the backend can store is held to the weights as that precision stores them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import DraftShape, Precision
from autotune.compile.base import build_program, load_backend
from autotune.compile.sandbox import Limits, Phase, run_sandboxed
from autotune.contest import NEAR_TIE
from autotune.errors import ArtifactError
from autotune.program import Drafting, Program
from autotune.quantization import dequantised
from autotune.runtime.session import Session, open_session
from autotune.sampling import SamplingSettings, distribution
from autotune.stopping import Pace
from autotune.weights import ModelWeights, TokenIds, trimmed
from tests.support import jobs
from tests.support.compiled import CAPACITY, LENGTH, PROMPT, QUANTISED_ERROR, SAMPLINGS, Compiled, ids_of
from tests.support.models import reference_logits, tiny_weights
from tests.support.stopping import rule_of
from tests.support.styled_conformance import StyledConformance

SHAPES = {
    "grouped": DraftShape(layers=2, heads=4, kv_heads=2, head_dim=32, hidden=64, ffn=88, vocab=317),
    "multi-head": DraftShape(layers=1, heads=3, kv_heads=3, head_dim=64, hidden=96, ffn=176, vocab=250),
    "odd-head": DraftShape(layers=2, heads=4, kv_heads=2, head_dim=6, hidden=36, ffn=20, vocab=33),
    "multi-query": DraftShape(layers=3, heads=5, kv_heads=1, head_dim=32, hidden=40, ffn=56, vocab=101),
}


class BackendConformance(StyledConformance):
    """Inherit and set `backend` to a name of the registry."""

    @pytest.fixture(scope="class", params=SHAPES)
    @classmethod
    def compiled(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
        """Each shape, exactly."""
        return cls._compile(tiny_weights(SHAPES[request.param]), cls.exact, tmp_path_factory.mktemp("exact"))

    @pytest.fixture(scope="class")
    @classmethod
    def grouped(cls, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
        """One shape, for what does not depend on it."""
        return cls._compile(tiny_weights(SHAPES["grouped"]), cls.exact, tmp_path_factory.mktemp("grouped"))

    @pytest.fixture(scope="class", params=["grouped", "odd-head"])
    @classmethod
    def trimmed(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
        """A shape whose head covers a third of the vocabulary."""
        shape = SHAPES[request.param]
        ids = np.sort(np.random.default_rng(3).permutation(shape.vocab)[: shape.vocab // 3])
        return cls._compile(tiny_weights(shape), cls.exact, tmp_path_factory.mktemp("trimmed"), ids)

    @pytest.fixture
    def session(self, compiled: Compiled) -> Iterator[Session]:
        session = open_session(compiled.folder, threads=1)
        yield session
        session.close()

    @classmethod
    def _compile(
        cls, whole: ModelWeights, precision: Precision, folder: Path, token_ids: TokenIds | None = None
    ) -> Compiled:
        """The compiled model; its head is trimmed to the token ids, if any are given."""
        weights = whole if token_ids is None else trimmed(whole, token_ids)
        build_program(cls.backend, weights, cls.settings(precision), folder / "program")
        tokens = np.random.default_rng(7).integers(0, whole.shape.vocab, LENGTH).tolist()
        expected = reference_logits(dequantised(whole, precision), tokens, folder / "checkpoint")
        return Compiled(weights, folder / "program", tokens, expected if token_ids is None else expected[:, token_ids])

    def test_backend_says_what_it_is(self) -> None:
        backend = load_backend(self.backend, self.device)
        assert backend.name == self.backend
        assert self.exact in backend.precisions(self.device)
        assert not backend.precisions("abacus")
        assert backend.versions()
        assert all(isinstance(version, str) and version for version in backend.versions().values())

    def test_positions_may_be_taken_for_cached(self, compiled: Compiled, session: Session) -> None:
        session.pretend_cached(PROMPT)
        assert np.isfinite(session.logits(compiled.tokens[:3], PROMPT)).all()
        session.pretend_cached(PROMPT)
        with pytest.raises(ValueError, match="not within the 9 positions"):
            session.greedy([1], PROMPT + 1)
        with pytest.raises(ValueError, match="do not fit"):
            session.pretend_cached(CAPACITY + 1)
        self.close(session.logits(compiled.tokens, 0), compiled.expected)

    def test_built_describes_the_program(self, tmp_path: Path) -> None:
        weights = tiny_weights(SHAPES["grouped"])
        built = build_program(self.backend, weights, self.settings(self.exact), tmp_path / "new" / "program")
        program = Program.read(Path(built.program))
        assert (program.backend, program.device, program.precision) == (self.backend, self.device, self.exact)
        assert (program.shape, program.capacity_tokens, program.token_ids) == (weights.shape, CAPACITY, None)
        assert program.numerics == weights.numerics
        assert program.versions == dict(load_backend(self.backend, self.device).versions())
        assert built.build_s > 0

    def test_prefill(self, compiled: Compiled, session: Session) -> None:
        self.close(session.logits(compiled.tokens, 0), compiled.expected)

    def test_decode(self, compiled: Compiled, session: Session) -> None:
        for position, token in enumerate(compiled.tokens):
            self.close(session.logits([token], position), compiled.expected[position : position + 1])

    @pytest.mark.parametrize("width", [2, 3, 5, 9, 17])
    def test_verify(self, compiled: Compiled, session: Session, width: int) -> None:
        session.greedy(compiled.tokens[:PROMPT], 0)
        for start in range(PROMPT, LENGTH, width):
            end = min(start + width, LENGTH)
            self.close(session.logits(compiled.tokens[start:end], start), compiled.expected[start:end])

    def test_targets_have_precisions_that_drafts_have_too(self) -> None:
        backend = load_backend(self.backend, self.device)
        assert {self.exact} <= backend.target_precisions(self.device) <= backend.precisions(self.device)

    @pytest.mark.parametrize("precision", Precision)
    def test_a_targets_logits_do_not_depend_on_how_many_tokens_share_a_call(
        self, precision: Precision, tmp_path: Path
    ) -> None:
        if precision not in load_backend(self.backend, self.device).target_precisions(self.device):
            pytest.skip(f"{self.backend} compiles no targets in {precision} on {self.device}")
        whole = tiny_weights(SHAPES["grouped"])
        build_program(self.backend, whole, self.settings(precision), tmp_path)
        session = open_session(tmp_path, threads=1)
        tokens = np.random.default_rng(7).integers(0, whole.shape.vocab, LENGTH).tolist()
        single = np.stack([session.logits([token], place)[0].copy() for place, token in enumerate(tokens)])
        for width in (2, 5, 9):
            starts = range(0, LENGTH, width)
            verified = np.concatenate([session.logits(tokens[at : at + width], at).copy() for at in starts])
            assert np.abs(verified - single).max() <= NEAR_TIE[precision] * np.abs(single).max()
        session.close()

    def test_tokens_may_be_an_array(self, compiled: Compiled, session: Session) -> None:
        self.close(session.logits(np.array(compiled.tokens), 0), compiled.expected)

    def test_rollback(self, compiled: Compiled, session: Session) -> None:
        wrong = [(token + 1) % compiled.weights.shape.vocab for token in compiled.tokens]
        session.logits(compiled.tokens[:PROMPT] + wrong[PROMPT:], 0)
        self.close(session.logits(compiled.tokens[PROMPT:], PROMPT), compiled.expected[PROMPT:])
        session.logits(wrong, 0)
        self.close(session.logits(compiled.tokens, 0), compiled.expected)

    def test_greedy_is_the_argmax_of_logits(self, compiled: Compiled, session: Session) -> None:
        for start, end in [(0, PROMPT), (PROMPT, PROMPT + 1), (PROMPT + 1, LENGTH)]:
            tokens = compiled.tokens[start:end]
            expected = session.logits(tokens, start).argmax(axis=1)
            greedy = session.greedy(tokens, start)
            assert greedy.dtype == np.int64
            assert greedy.tolist() == expected.tolist()

    def test_greedy_takes_the_first_of_equal_maxima(self, grouped: Compiled, tmp_path: Path) -> None:
        head = grouped.weights.arrays["head"].copy()
        head[1:-1:2] = head[0:-1:2]  # each odd token ties with the even one before it
        weights = ModelWeights(
            grouped.weights.shape, grouped.weights.numerics, dict(grouped.weights.arrays) | {"head": head}
        )
        build_program(self.backend, weights, self.settings(self.exact), tmp_path)
        tokens = open_session(tmp_path, threads=1).greedy(grouped.tokens, 0)
        assert (tokens % 2 == 0).all()

    @pytest.mark.parametrize("drafting", Drafting)
    @pytest.mark.parametrize("given", [1, 2])
    @pytest.mark.parametrize("count", [1, 2, 4, 8])
    def test_burst_is_sequential_greedy(
        self, compiled: Compiled, session: Session, drafting: Drafting, given: int, count: int
    ) -> None:
        session.drafting = drafting
        prompt = compiled.tokens[:PROMPT]
        expected = [int(session.greedy(prompt, 0)[-1])]
        while len(expected) < count:
            expected.append(int(session.greedy(expected[-1:], PROMPT + len(expected) - 1)[0]))

        drafted = session.burst(prompt[-given:], PROMPT - given, count)
        assert drafted == expected
        assert all(type(token) is int for token in drafted)

    @pytest.mark.parametrize("drafting", Drafting)
    def test_a_burst_caches_all_but_its_last_token(
        self, compiled: Compiled, session: Session, drafting: Drafting
    ) -> None:
        session.drafting = drafting
        prompt = compiled.tokens[:PROMPT]
        session.greedy(prompt, 0)
        drafted = session.burst(prompt[-1:], PROMPT - 1, 4)
        end = PROMPT + 3
        continued = session.logits(drafted[-1:], end).copy()
        self.close(continued, session.logits(prompt + drafted, 0)[-1:])
        with pytest.raises(ValueError, match="start"):
            session.greedy([0], PROMPT + 5)

    def test_the_whole_capacity_is_usable(self, compiled: Compiled, session: Session) -> None:
        tokens = (compiled.tokens * 2)[:CAPACITY]
        first = session.logits(tokens[:-1], 0)[:LENGTH].copy()
        self.close(first, compiled.expected)
        assert session.greedy(tokens[-1:], CAPACITY - 1).shape == (1,)
        session.burst(tokens[CAPACITY - 4 : CAPACITY - 3], CAPACITY - 4, 4)

    def test_impossible_calls_are_refused_and_do_no_harm(self, compiled: Compiled, session: Session) -> None:
        session.greedy(compiled.tokens[:PROMPT], 0)
        with pytest.raises(ValueError, match="no tokens"):
            session.logits([], PROMPT)
        with pytest.raises(ValueError, match="start"):
            session.greedy([1], PROMPT + 1)
        with pytest.raises(ValueError, match="start"):
            session.greedy([1], -1)
        with pytest.raises(ValueError, match=f"{CAPACITY} tokens"):
            session.logits([1] * (CAPACITY - PROMPT + 1), PROMPT)
        with pytest.raises(ValueError, match=f"{CAPACITY} tokens"):
            session.burst([1], PROMPT, CAPACITY - PROMPT + 1)
        with pytest.raises(ValueError, match="at least one"):
            session.burst([1], PROMPT, 0)
        with pytest.raises(ValueError, match="at least one"):
            session.sampled_burst([1], PROMPT, 0, SAMPLINGS["temperature"], [])
        with pytest.raises(ValueError, match=f"{CAPACITY} tokens"):
            session.sampled_burst([1], PROMPT, CAPACITY - PROMPT + 1, SAMPLINGS["temperature"], [0.5] * CAPACITY)
        self.close(session.logits(compiled.tokens[PROMPT:], PROMPT), compiled.expected[PROMPT:])

    def test_sessions_of_one_program_are_independent(self, compiled: Compiled, session: Session) -> None:
        other = open_session(compiled.folder, threads=2)
        session.greedy(compiled.tokens[:PROMPT], 0)
        other.greedy(compiled.tokens[::-1], 0)
        self.close(session.logits(compiled.tokens[PROMPT:], PROMPT), compiled.expected[PROMPT:])
        other.close()
        self.close(session.logits(compiled.tokens, 0), compiled.expected)

    @pytest.mark.parametrize("drafting", list(Drafting))
    def test_siblings_share_a_program_and_no_cache(self, compiled: Compiled, drafting: Drafting) -> None:
        def course(session: Session, tokens: list[int]) -> Iterator[object]:
            session.drafting = drafting
            session.greedy(tokens[:PROMPT], 0)
            yield session.burst(tokens[PROMPT : PROMPT + 1], PROMPT, 3)
            burst = session.sampled_burst(tokens[PROMPT : PROMPT + 2], PROMPT, 3, SAMPLINGS["temperature"], [0.2] * 3)
            yield burst.tokens, burst.probabilities, burst.distribution(1).tolist()
            yield session.logits(tokens[PROMPT:], PROMPT).tolist()

        first = open_session(compiled.folder, threads=1)
        siblings = [first.sibling(), first.sibling()]
        first.close()  # what they share outlives it
        texts = [compiled.tokens, compiled.tokens[::-1]]
        expected = [list(course(open_session(compiled.folder, threads=1), tokens)) for tokens in texts]
        courses = [course(sibling, tokens) for sibling, tokens in zip(siblings, texts, strict=True)]
        assert [list(turn) for turn in zip(*courses, strict=True)] == [
            list(turn) for turn in zip(*expected, strict=True)
        ]

    def test_a_moved_program_runs_in_a_fresh_process(self, compiled: Compiled, tmp_path: Path) -> None:
        moved = shutil.copytree(compiled.folder, tmp_path / "moved")
        request = {"program": str(moved), "tokens": compiled.tokens}
        limits = Limits(time_s=60)
        outcome = run_sandboxed(f"{jobs.__name__}:greedy_tokens", request, Phase.RUN, limits, threads=1)
        assert outcome == compiled.expected.argmax(axis=1).tolist()

    def test_an_incomplete_program_is_refused(self, grouped: Compiled, tmp_path: Path) -> None:
        for path in grouped.folder.iterdir():
            folder = shutil.copytree(grouped.folder, tmp_path / f"without-{path.name}")
            (folder / path.name).unlink()
            with pytest.raises(ArtifactError):
                open_session(folder, threads=1)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("precision", QUANTISED_ERROR)
    def test_other_precisions_are_close_to_the_weights_they_store(
        self, shape: str, precision: Precision, tmp_path: Path
    ) -> None:
        if precision not in load_backend(self.backend, self.device).precisions(self.device):
            pytest.skip(f"{self.backend} has no {precision} on {self.device}")
        compiled = self._compile(tiny_weights(SHAPES[shape]), precision, tmp_path)
        session = open_session(compiled.folder, threads=1)
        steps = [session.logits([token], position)[0].copy() for position, token in enumerate(compiled.tokens)]
        for logits in (session.logits(compiled.tokens, 0), np.array(steps)):
            error = np.sqrt(np.mean((logits - compiled.expected) ** 2) / np.mean(compiled.expected**2))
            assert error < QUANTISED_ERROR[precision]

    def test_a_trimmed_head_proposes_only_its_tokens(self, trimmed: Compiled) -> None:
        ids = ids_of(trimmed)
        session = open_session(trimmed.folder, threads=1)
        assert session.program.token_ids == tuple(ids.tolist())
        assert session.program.shape == trimmed.weights.shape
        self.close(session.logits(trimmed.tokens, 0), trimmed.expected)
        assert session.greedy(trimmed.tokens, 0).tolist() == ids[trimmed.expected.argmax(axis=1)].tolist()
        for drafting in Drafting:
            session.drafting = drafting
            session.greedy(trimmed.tokens[:PROMPT], 0)
            drafted = session.burst(trimmed.tokens[PROMPT - 1 : PROMPT], PROMPT - 1, 4)
            assert set(drafted) <= set(ids.tolist())
            follows = session.greedy(drafted, PROMPT)
            assert drafted[1:] == follows[:-1].tolist()

    @pytest.mark.parametrize("drafting", Drafting)
    @pytest.mark.parametrize("sampling", SAMPLINGS)
    @pytest.mark.parametrize("given", [1, 2])
    def test_a_sampled_burst_draws_from_its_distributions(
        self, compiled: Compiled, session: Session, drafting: Drafting, sampling: str, given: int
    ) -> None:
        for count in (1, 3, 4, 6):
            self.check_sampled(compiled, session, drafting, SAMPLINGS[sampling], given, count)

    @pytest.mark.parametrize("drafting", Drafting)
    def test_a_trimmed_head_draws_only_its_tokens(self, trimmed: Compiled, drafting: Drafting) -> None:
        session = open_session(trimmed.folder, threads=1)
        for sampling in SAMPLINGS.values():
            self.check_sampled(trimmed, session, drafting, sampling, 1, 4)

    @pytest.mark.parametrize("drafting", Drafting)
    @pytest.mark.parametrize("sampling", ["greedy", *SAMPLINGS])
    @pytest.mark.parametrize("least", [0.0, 1e-3, 0.3, 0.8, 1.1])
    def test_a_burst_stops_where_its_confidence_says_so(
        self, compiled: Compiled, session: Session, drafting: Drafting, sampling: str, least: float
    ) -> None:
        self.check_stopping(compiled, session, drafting, SAMPLINGS.get(sampling, SamplingSettings()), least)

    @pytest.mark.parametrize("drafting", Drafting)
    def test_a_trimmed_head_stops_too(self, trimmed: Compiled, drafting: Drafting) -> None:
        session = open_session(trimmed.folder, threads=1)
        for sampling in (SamplingSettings(), SAMPLINGS["temperature"]):
            for least in (0.0, 0.5):
                self.check_stopping(trimmed, session, drafting, sampling, least)

    def test_a_burst_that_may_stop_needs_a_bound_for_every_step(self, compiled: Compiled, session: Session) -> None:
        session.greedy(compiled.tokens[:PROMPT], 0)
        with pytest.raises(ValueError, match="1 … 3 tokens by its rule, not 4"):
            session.stopping_burst([1], PROMPT, 4, rule_of(3, goes_on_from=0.5), SamplingSettings(), [])
        count = CAPACITY - PROMPT + 1
        with pytest.raises(ValueError, match=f"{CAPACITY} tokens"):
            session.stopping_burst([1], PROMPT, count, rule_of(count, goes_on_from=0.5), SamplingSettings(), [])

    def check_stopping(
        self, compiled: Compiled, session: Session, drafting: Drafting, sampling: SamplingSettings, least: float
    ) -> None:
        """A burst that may stop drafts the beginning of the one that may not, as long as `least` lets it."""
        prompt, noise, count = compiled.tokens[:PROMPT], [0.9, 0.1, 0.6, 0.4, 0.8], 5
        rule = rule_of(count, goes_on_from=least)
        session.drafting = drafting
        session.greedy(prompt, 0)
        if sampling.greedy:
            whole = session.burst(prompt[-1:], PROMPT - 1, count)
        else:
            whole = session.sampled_burst(prompt[-1:], PROMPT - 1, count, sampling, noise).tokens
        logits = session.logits([prompt[-1], *whole[:-1]], PROMPT - 1).copy()
        shown = SamplingSettings(temperature=1.0) if sampling.greedy else sampling
        pace = Pace(rule)
        made = next(
            (n for n, q in enumerate(distribution(logits, shown), 1) if not pace.goes_on(float(q.max()))), count
        )

        stopped = session.stopping_burst(prompt[-1:], PROMPT - 1, count, rule, sampling, noise)
        assert stopped.tokens == whole[:made]
        assert stopped.survival == pytest.approx(pace.survival, abs=1e-5)
        assert (stopped.drawn is None) == sampling.greedy
        if stopped.drawn is not None:
            q = stopped.drawn.distribution(made - 1)
            assert stopped.drawn.tokens == stopped.tokens
            assert stopped.drawn.probabilities[-1] == pytest.approx(q[stopped.tokens[-1]], rel=1e-4)
        session.greedy(stopped.tokens[-1:], PROMPT + made - 1)
        with pytest.raises(ValueError, match="start"):
            session.greedy([0], PROMPT + made + 1)
