"""Which kind of run a configuration is, by how much of its models is here."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autotune.cast import find_cast
from autotune.config import TuneConfig, make_config
from autotune.errors import BadRequest, MissingEvidence
from autotune.objective import MEAN, WORST
from autotune.request import resolve
from autotune.results import RunKind
from autotune.sampling import SamplingSettings
from autotune.targets import Blueprint, Target, TextModel, resolve_target
from autotune.text import record_workload
from autotune.trace_files import save_traces
from autotune.traces import Trace, Traces
from tests.support.evaluators import SilentObserver
from tests.support.fake_endpoint import serving

Configure = Callable[..., TuneConfig]


@pytest.fixture
def away(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with the tiny checkpoint's config and nothing else of it."""
    folder = tmp_path / "away"
    folder.mkdir()
    shutil.copy(tiny_checkpoint / "config.json", folder)
    return folder


@pytest.fixture
def traces(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Traces that a target of the tiny checkpoint's tokenizer left elsewhere."""
    items = []
    for number in range(6):
        prompt, continuation = np.array([5, number + 1], np.int32), np.array([7, 8, 9], np.int32)
        top = np.array([-1, 3, 7, 8, 9], np.int32)
        items.append(Trace(prompt, continuation, np.zeros(3, np.float32), top, "text"))
    tokenizer = resolve_target(str(tiny_checkpoint)).tokenizer_fingerprint
    path = tmp_path / "traces.safetensors"
    save_traces(Traces(tuple(items), SamplingSettings(), "of a target elsewhere", tokenizer, 0), path)
    return path


@pytest.fixture
def configure(away: Path, tiny_checkpoint: Path) -> Configure:
    """A configuration with the target away and the source here, unless it says otherwise."""

    def make(**flags: object) -> TuneConfig:
        usual = {"target": str(away), "source": str(tiny_checkpoint), "proxy": "pruned", "finish": 0}
        return make_config({**usual, "lookahead": "1:3", "backend": "onnxruntime", **flags})

    return make


def test_with_the_weights_it_is_a_whole_run(configure: Configure, tiny_checkpoint: Path) -> None:
    cast = find_cast(configure(target=str(tiny_checkpoint)))
    assert cast.kind is RunKind.WHOLE
    assert isinstance(cast.target, Target)
    assert find_cast(make_config({})).source.id == "demo"


def test_with_traces_and_a_source_the_target_is_served(configure: Configure, traces: Path) -> None:
    cast = find_cast(configure(traces=str(traces)))
    assert (cast.kind, cast.recorded) == (RunKind.SERVED, traces)
    assert isinstance(cast.target, TextModel)
    assert not isinstance(cast.target, Target)
    assert cast.target.fingerprint == "of a target elsewhere"
    assert "traces of it are" in cast.why


def test_a_server_of_the_target_is_asked_for_its_text(
    configure: Configure, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"def add_{n}(a, b):" for n in range(12)))
    with serving(resolve_target(str(tiny_checkpoint))) as server:
        request = resolve(configure(traces=server.url, prompts=str(prompts), max_new_tokens=4))
        assert (request.kind, request.cast.recorded) == (RunKind.SERVED, None)
        assert request.cast.endpoint is not None
        traces = record_workload(request, None, 1, SilentObserver())
    assert traces.estimate.target_fingerprint == request.text_target.fingerprint
    assert traces.estimate.tokens > 0
    with pytest.raises(BadRequest, match="give its URL with --traces"):
        find_cast(configure(model="a model"))


def test_with_neither_it_is_a_plan(configure: Configure, away: Path) -> None:
    for source in (str(away), None):
        cast = find_cast(configure(source=source))
        assert cast.kind is RunKind.PLAN
        assert type(cast.target) is type(cast.source) is Blueprint
        assert cast.why == f"neither weights nor traces of {away.resolve()} are here"


def test_a_preset_names_its_own_source(configure: Configure) -> None:
    cast = find_cast(make_config({"target": "llama-65b"}))
    assert (cast.kind, cast.target.id, cast.source.id) == (RunKind.PLAN, "llama-65b", "llama-7b")


def test_drafts_cannot_be_cut_from_weights_that_are_elsewhere(
    configure: Configure, tiny_checkpoint: Path, away: Path, traces: Path
) -> None:
    with pytest.raises(BadRequest, match=r"the weights of the source .* are not here: give the folder"):
        find_cast(configure(target=str(tiny_checkpoint), source=str(away)))
    with pytest.raises(BadRequest, match="or leave --traces out to make a plan"):
        find_cast(configure(source=str(away), traces=str(traces)))


def test_a_source_of_pickled_weights_is_to_be_converted(configure: Configure, traces: Path) -> None:
    with pytest.raises(BadRequest, match=r"opt-6.7b .* not here: `python -c .*'facebook/opt-6.7b'.*` makes a folder"):
        find_cast(configure(target="opt-66b", source="opt-6.7b", traces=str(traces)))


def test_vocabularies_must_have_the_same_size(configure: Configure) -> None:
    with pytest.raises(BadRequest, match="have 320 and 2048 rows"):
        find_cast(configure(source="demo"))


def test_a_request_says_where_the_latency_comes_from(configure: Configure, tmp_path: Path) -> None:
    assert resolve(make_config({})).latency_source == "measured"
    assert resolve(configure()).latency_source == "slices"
    table = tmp_path / "table.json"
    with pytest.raises(BadRequest, match=r"--target-latency .*table\.json: the file does not exist"):
        resolve(configure(target_latency=table))
    table.write_text('{"verify_s": {"1": 0.1, "4": 0.1}}')
    request = resolve(configure(target_latency=table))
    assert request.latency_source == "table"
    assert request.table is not None
    assert request.table.verify.seconds(4) == 0.1


def test_the_latency_of_a_target_that_is_here_is_measured(tmp_path: Path) -> None:
    for flags in ({"target_latency": tmp_path / "table.json"}, {"target_tp": 2}, {"collective_latency": "1ms"}):
        with pytest.raises(BadRequest, match="the weights of demo are here, so its latency is measured"):
            resolve(make_config(flags))


def test_a_table_is_not_split(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="choose one"):
        resolve(configure(target_latency=tmp_path / "table.json", target_tp=2))
    with pytest.raises(BadRequest, match="--target-tp 3"):
        resolve(configure(target_tp=3))


def test_the_latency_of_collectives_must_be_known(configure: Configure) -> None:
    with pytest.raises(BadRequest, match=r"--target-tp 2: .* give its latency, e\.g\. --collective-latency 20us"):
        resolve(configure(target_tp=2))
    assert resolve(configure(target_tp=2, collective_latency="20us")).config.collective_latency == pytest.approx(2e-5)
    with pytest.raises(BadRequest, match="of use only with --target-tp 2 or more"):
        resolve(configure(collective_latency="20us"))


def test_a_plan_too_needs_room_for_more_than_the_end_of_a_text(configure: Configure) -> None:
    with pytest.raises(BadRequest, match="--draft-vocab 1: "):
        resolve(configure(draft_vocab="1,100"))


def test_context(configure: Configure) -> None:
    assert resolve(configure()).context_tokens == 64
    assert resolve(configure(context=48)).context_tokens == 48
    with pytest.raises(BadRequest, match="--context 65: the models are made for 64 tokens at most"):
        resolve(configure(context=65))
    with pytest.raises(BadRequest, match="do not fit into the context of 4 tokens"):
        resolve(configure(context=4))


def test_a_strict_run_names_all_that_is_missing(configure: Configure, traces: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingEvidence, match=r"stand-in .*; .*extrapolated .*; nothing would be validated"):
        resolve(configure(strict=True))
    with pytest.raises(MissingEvidence, match=r"^--strict: the target's latency would be extrapolated .*; nothing"):
        resolve(configure(strict=True, traces=str(traces)))
    with pytest.raises(MissingEvidence, match=r"^--strict: nothing would be validated"):
        resolve(configure(strict=True, traces=str(traces), target_latency=tmp_path / "table.json"))
    assert resolve(make_config({"strict": True})).config.strict


def test_plans_search_int8_and_other_runs_what_is_usual(configure: Configure, traces: Path) -> None:
    assert [precision.value for precision in resolve(configure()).precision] == ["int8"]
    served = resolve(configure(traces=str(traces)))
    assert [precision.value for precision in served.precision] == ["fp32", "int8"]


def test_published_drafts_come_first() -> None:
    """And, in a plan, the deepest of the space."""
    shapes = [candidate.shape for candidate in resolve(make_config({"target": "llama-65b"})).space.seeds()]
    assert [(shape.layers, shape.heads, shape.ffn) for shape in shapes[:4]] == [
        (5, 32, 11008),
        (3, 32, 11008),
        (1, 32, 11008),
        (12, 32, 11008),
    ]
    assert len(set(shapes[:9])) == 9


def test_runs_of_different_kinds_are_different_runs(configure: Configure, traces: Path) -> None:
    plan, served = resolve(configure()), resolve(configure(traces=str(traces)))
    assert plan.identity()["kind"] != served.identity()["kind"]
    assert plan.identity() == resolve(configure(trials=3, sampler="random")).identity()


def test_whether_builds_are_refined_is_part_of_a_run(configure: Configure) -> None:
    refined, on_all = (resolve(configure(refine=refine)).identity() for refine in (True, False))
    assert refined != on_all


def test_the_objective_is_part_of_a_run(configure: Configure, traces: Path) -> None:
    mean, worst = (resolve(configure(traces=str(traces), objective=name)) for name in ("mean", "worst"))
    assert mean.identity() != worst.identity()
    assert (mean.objective, worst.objective) == (MEAN, WORST)
    halves = [
        resolve(configure(traces=str(traces), objective="weighted", category_weights={"text": share}))
        for share in (0.5, 1)
    ]
    assert halves[0].objective == halves[1].objective
    assert halves[0].identity()["category_weights"] == {"text": 0.5}
    with pytest.raises(BadRequest, match="--objective worst: a plan has none of the target's text"):
        resolve(configure(objective="worst"))
