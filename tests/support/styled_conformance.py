"""The part of the conformance suite that goes through the styles of `tests.support.models.STYLED`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import Precision
from autotune.compile.base import build_program, load_backend
from autotune.errors import BadRequest
from autotune.program import Drafting
from autotune.quantization import dequantised
from autotune.runtime.session import Session, open_session
from autotune.weights import TokenIds, trimmed
from tests.support.compiled import LENGTH, PROMPT, QUANTISED_ERROR, SAMPLINGS, BackendSuite, Compiled, ids_of
from tests.support.models import STYLED, styled_weights
from tests.support.reference_decoder import decoder_logits


class StyledConformance(BackendSuite):
    """Every style the class names in `styles`, held to the plain decoder."""

    styles: tuple[str, ...] = ()
    """Names of `tests.support.models.STYLED` that the backend builds besides the usual models."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        for fixture in ("styled", "style"):
            if fixture in metafunc.fixturenames:
                metafunc.parametrize(fixture, self.styles, indirect=fixture == "styled", scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def styled(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
        """Each style, exactly."""
        return cls._compile_style(request.param, cls.exact, tmp_path_factory.mktemp("styled"))

    @pytest.fixture
    def styled_session(self, styled: Compiled) -> Iterator[Session]:
        session = open_session(styled.folder, threads=1)
        yield session
        session.close()

    @classmethod
    def _compile_style(
        cls, style: str, precision: Precision, folder: Path, token_ids: TokenIds | None = None
    ) -> Compiled:
        """The compiled model of that style; its head is trimmed to the token ids, if any are given."""
        whole = styled_weights(style)
        weights = whole if token_ids is None else trimmed(whole, token_ids)
        build_program(cls.backend, weights, cls.settings(precision), folder)
        tokens = np.random.default_rng(7).integers(0, whole.shape.vocab, LENGTH).tolist()
        return Compiled(weights, folder, tokens, decoder_logits(dequantised(weights, precision), tokens))

    def test_a_styled_model_is_the_plain_decoder(self, styled: Compiled, styled_session: Session) -> None:
        for start, end in [(0, PROMPT), *((at, at + 1) for at in range(PROMPT, PROMPT + 4)), (PROMPT + 4, LENGTH)]:
            self.close(styled_session.logits(styled.tokens[start:end], start), styled.expected[start:end])
        for width in (2, 5):
            for start in range(PROMPT, LENGTH, width):
                end = min(start + width, LENGTH)
                self.close(styled_session.logits(styled.tokens[start:end], start), styled.expected[start:end])

    def test_a_styled_model_rolls_back(self, styled: Compiled, styled_session: Session) -> None:
        wrong = [(token + 1) % styled.weights.shape.vocab for token in styled.tokens]
        styled_session.logits(styled.tokens[:PROMPT] + wrong[PROMPT:], 0)
        self.close(styled_session.logits(styled.tokens[PROMPT:], PROMPT), styled.expected[PROMPT:])
        styled_session.logits(wrong, 0)
        self.close(styled_session.logits(styled.tokens, 0), styled.expected)

    @pytest.mark.parametrize("drafting", Drafting)
    def test_a_styled_model_drafts(self, styled: Compiled, styled_session: Session, drafting: Drafting) -> None:
        styled_session.drafting = drafting
        prompt = styled.tokens[:PROMPT]
        for given, count in ((1, 1), (1, 4), (2, 3)):
            expected = [int(styled_session.greedy(prompt, 0)[-1])]
            while len(expected) < count:
                expected.append(int(styled_session.greedy(expected[-1:], PROMPT + len(expected) - 1)[0]))
            assert styled_session.burst(prompt[-given:], PROMPT - given, count) == expected
        self.check_sampled(styled, styled_session, drafting, SAMPLINGS["temperature"], 2, 4)

    def test_a_styled_model_proposes_only_what_its_head_keeps(self, style: str, tmp_path: Path) -> None:
        vocab = STYLED[style][0].vocab
        ids = np.sort(np.random.default_rng(3).permutation(vocab)[: vocab // 3])
        compiled = self._compile_style(style, self.exact, tmp_path, ids)
        session = open_session(compiled.folder, threads=1)
        self.close(session.logits(compiled.tokens, 0), compiled.expected)
        assert set(session.burst(compiled.tokens[-1:], LENGTH - 1, 4)) <= set(ids_of(compiled).tolist())

    @pytest.mark.parametrize("precision", QUANTISED_ERROR)
    def test_other_precisions_of_a_styled_model_are_close_to_the_weights_they_store(
        self, style: str, precision: Precision, tmp_path: Path
    ) -> None:
        if precision not in load_backend(self.backend, self.device).precisions(self.device):
            pytest.skip(f"{self.backend} has no {precision} on {self.device}")
        compiled = self._compile_style(style, precision, tmp_path)
        session = open_session(compiled.folder, threads=1)
        steps = [session.logits([token], position)[0].copy() for position, token in enumerate(compiled.tokens)]
        for logits in (session.logits(compiled.tokens, 0), np.array(steps)):
            error = np.sqrt(np.mean((logits - compiled.expected) ** 2) / np.mean(compiled.expected**2))
            assert error < QUANTISED_ERROR[precision]

    def test_a_cache_longer_than_the_table_of_positions_is_refused(self, style: str, tmp_path: Path) -> None:
        weights, settings = styled_weights(style), self.settings(self.exact)
        positions = weights.shape.style.learned_positions
        if not positions:
            pytest.skip("positions are rotary: there are as many as one likes")
        with pytest.raises(BadRequest, match=f"{positions} positions"):
            build_program(self.backend, weights, replace(settings, capacity_tokens=positions + 1), tmp_path / "refused")
        assert not (tmp_path / "refused").exists()
