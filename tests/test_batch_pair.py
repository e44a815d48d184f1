"""A shipped pair that decodes several sequences at once: the real programs of a draft for the demo."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.artifact import ArtifactKind, Manifest, read_manifest
from autotune.batch_pair import batches_below, compile_batch, largest_batch, lookahead_of
from autotune.contest import differs_at_near_tie
from autotune.errors import BadRequest
from autotune.pair import Pair
from autotune.program import Program
from autotune.targets import resolve_target
from tests.support.artifacts import artifact_of_demo

SCHEDULE = ((1, 1, 3), (2, 3, 2), (4, 6, 1))
PROMPTS = (
    "def read_lines(path):\n",
    "import os\n",
    "class Tree:\n    def __init__(self",
    "for",
    "    return x",
    "x = [",
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All but one of the demo's layers, and a head without every third token."""
    ids = np.delete(np.arange(resolve_target("demo").shape.vocab), slice(0, None, 3))
    return artifact_of_demo(tmp_path_factory.mktemp("batch") / "artifact", token_ids=ids, schedule=SCHEDULE)


@pytest.fixture
def pair(artifact: Path) -> Iterator[Pair]:
    with Pair.open(artifact) as opened:
        yield opened


@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"batch": 4, "lookahead": 4}, {"batch": 8, "lookahead": 0}])
def test_greedy_continuations_are_those_of_the_target_alone(pair: Pair, options: dict[str, int]) -> None:
    alone = [pair.alone().generate(prompt, 30) for prompt in PROMPTS]
    together = pair.generate_batch(PROMPTS, 30, batch=options.get("batch"), lookahead=options.get("lookahead"))
    assert pair.statistics.tokens == sum(len(each.tokens) for each in together)
    same = 0
    for prompt, own, given in zip(PROMPTS, alone, together, strict=True):
        ids = tuple(pair.tokenizer.encode(prompt))
        level = differs_at_near_tie(pair.decoder.target, ids, list(own.tokens), list(given.tokens))
        assert level is not False
        if level is None:
            same += 1
            assert given.text == own.text
            assert given.statistics.tokens == len(given.tokens)
    assert same >= len(PROMPTS) - 1
    if options.get("lookahead") != 0:
        assert pair.statistics.tokens_per_round > 1.2


def test_a_draw_repeats_itself_and_stop_strings_end_single_sequences(pair: Pair) -> None:
    first = pair.generate_batch(PROMPTS, 20, batch=4, temperature=0.8, seed=5)
    again = pair.generate_batch(PROMPTS, 20, batch=4, temperature=0.8, seed=5)
    other = pair.generate_batch(PROMPTS, 20, batch=4, temperature=0.8, seed=6)
    assert [each.tokens for each in first] == [each.tokens for each in again] != [each.tokens for each in other]
    whole = pair.generate_batch(PROMPTS, 30)
    stop = whole[1].text[8:10]
    for before, stopped in zip(whole, pair.generate_batch(PROMPTS, 30, stop=[stop]), strict=True):
        assert stopped.text == before.text.partition(stop)[0]


def test_the_same_prompt_is_drawn_anew_in_every_place(pair: Pair) -> None:
    drawn = pair.generate_batch(["def "] * 6, 20, temperature=1.0)
    assert len({each.tokens for each in drawn}) > 3


def test_programs_are_compiled_once_for_what_was_measured(artifact: Path) -> None:
    manifest, target = read_manifest(artifact), resolve_target("demo")
    programs = compile_batch(artifact, manifest, target, 5)
    assert compile_batch(artifact, manifest, target, 5) == programs
    assert programs.draft is not None
    own = Program.read(artifact / "draft")
    for folder in (programs.target, programs.draft):
        program = Program.read(folder)
        assert program.batches == (1, 3, 5)
        assert program.capacity_tokens == own.capacity_tokens
    assert Program.read(programs.draft).token_ids == own.token_ids
    without = replace(manifest, lookahead_schedule=((1, 6, 0),))
    assert compile_batch(artifact, without, target, 5).draft is None


def test_the_lookahead_is_the_schedules(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    lookahead = lookahead_of(manifest, 6)
    assert callable(lookahead)
    assert [lookahead(active) for active in range(1, 7)] == [3, 2, 2, 1, 1, 1]
    assert lookahead_of(manifest, 9, fixed=4) == 4
    assert [largest_batch(manifest, count) for count in (1, 2, 3, 4, 6, 7, 100)] == [3, 3, 3, 6, 6, 6, 6]
    assert batches_below(manifest, 9) == (1, 3, 6, 9)


def _on_a_gpu(manifest: Manifest) -> Manifest:
    return replace(manifest, target=replace(manifest.target, device="cuda"))


def _without_a_draft(manifest: Manifest) -> Manifest:
    return replace(manifest, draft=None, lookahead=0, kind=ArtifactKind.PAIR)


@pytest.mark.parametrize(
    ("change", "batch", "lookahead", "message"),
    [
        (
            lambda manifest: manifest,
            7,
            None,
            r"ends at a batch of 6: give --lookahead for 7, or run again with --batch 7",
        ),
        (lambda manifest: manifest, 1, None, "at least 2 sequences"),
        (_on_a_gpu, 4, None, "made for cuda: several sequences are decoded at once by onnxruntime on the cpu only"),
        (_without_a_draft, 4, 2, "a lookahead of 2 needs a draft"),
    ],
)
def test_what_cannot_be_decoded_together_is_refused(
    artifact: Path, change: Callable[[Manifest], Manifest], batch: int, lookahead: int | None, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        compile_batch(artifact, change(read_manifest(artifact)), resolve_target("demo"), batch, lookahead)
