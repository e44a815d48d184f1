"""What an objective needs of the workload's categories, and what is refused before anything is written."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autotune.config import make_config
from autotune.errors import BadRequest
from autotune.objective import MEAN, WORST, Objective, weighted
from autotune.objective_request import category_notes, find_objective
from autotune.recording import WorkloadTraces
from autotune.results import RunKind


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Ten prompts of code, six of chat, one of poems, and five of mathematics to train on alone."""
    path = tmp_path / "prompts.jsonl"
    lines: list[dict[str, str]] = [{"prompt": f"def f{n}", "category": "code"} for n in range(10)]
    lines += [{"prompt": f"Hello {n}", "category": "chat"} for n in range(6)]
    lines += [{"prompt": "A rose", "category": "poems"}]
    lines += [{"prompt": f"{n} + 1", "category": "mathematics", "split": "train"} for n in range(5)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def asked(prompts: Path, kind: RunKind = RunKind.WHOLE, **flags: Any) -> Objective:
    return find_objective(make_config({"prompts": str(prompts), **flags}), kind, None)


def well_filled(prompts: Path) -> Path:
    """The prompts of the categories that have some in every split."""
    kept = [line for line in prompts.read_text().splitlines() if "code" in line or "chat" in line]
    prompts.write_text("\n".join(kept))
    return prompts


def test_objectives(prompts: Path) -> None:
    assert asked(prompts) == MEAN
    assert asked(prompts, RunKind.PLAN) == MEAN
    weights = weighted({"code": 2, "chat": 1})
    assert asked(prompts, objective="weighted", category_weights="code=2, chat=1") == weights
    assert asked(prompts, objective="weighted", category_weights={"code": 4.0, "chat": 2, "poems": 0}) == weights
    assert asked(well_filled(prompts), objective="worst") == WORST


THERE = r"the workload has chat \(6\), code \(10\), mathematics \(5\), poems \(1\)$"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"category_weights": "code=1"}, "are those of --objective weighted: add it, or leave them out"),
        ({"objective": "worst", "category_weights": "code=1"}, "are those of --objective weighted"),
        ({"objective": "weighted"}, f"needs --category-weights, such as code=2,chat=1; {THERE}"),
        ({"objective": "weighted", "category_weights": "code=1,verse=2"}, f"no category 'verse'; {THERE}"),
        ({"objective": "weighted", "category_weights": "code=-1,chat=2"}, f"code=-1 is no weight.*; {THERE}"),
        ({"objective": "weighted", "category_weights": "code=nan"}, f"code=nan is no weight.*; {THERE}"),
        ({"objective": "weighted", "category_weights": "code=inf"}, f"code=inf is no weight.*; {THERE}"),
        ({"objective": "weighted", "category_weights": "code=0,chat=0"}, f"finite number above 0; {THERE}"),
        ({"objective": "weighted", "category_weights": "code=1e308,chat=1e308"}, f"finite number above 0; {THERE}"),
        ({"objective": "weighted", "category_weights": {}}, f"finite number above 0; {THERE}"),
        ({"objective": "weighted", "category_weights": "mathematics=1"}, f"'mathematics' is left to estim.*; {THERE}"),
        ({"objective": "worst"}, f"no prompt of the category 'mathematics' is left to estimate TAR on; .*; {THERE}"),
        ({"objective": "best"}, "--objective best: choose from: mean, worst, weighted"),
        ({"objective": "weighted", "category_weights": "code"}, "--category-weights code: write every category once"),
        ({"objective": "weighted", "category_weights": "code=1,code=2"}, "write every category once"),
        ({"objective": "weighted", "category_weights": "=1"}, "write every category once"),
        ({"objective": "weighted", "category_weights": ""}, "write every category once"),
        ({"objective": "weighted", "category_weights": "code=much"}, "--category-weights code=much: write every cat"),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_line(prompts: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        asked(prompts, **flags)
    assert "\n" not in str(caught.value)


def test_a_category_that_cannot_be_decoded_is_refused_where_drafts_are(prompts: Path) -> None:
    """Of one prompt, only one split can have it: whichever that is, the others lack it."""
    with pytest.raises(BadRequest, match="no prompt of the category 'poems' is left to"):
        asked(prompts, objective="weighted", category_weights="poems=1")


def test_a_category_with_nothing_to_decode_will_do_where_nothing_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    for seed in range(20):  # until the only prompt of the second category is one to estimate on
        lines = [{"prompt": f"{n}", "category": "a"} for n in range(8)] + [{"prompt": "one", "category": "b"}]
        path.write_text("\n".join(map(json.dumps, lines)))
        try:
            served = asked(path, RunKind.SERVED, objective="worst", seed=seed)
        except BadRequest:
            continue
        assert served == WORST
        with pytest.raises(BadRequest, match="'b' is left to decode in the validation"):
            asked(path, RunKind.WHOLE, objective="worst", seed=seed)
        return
    pytest.fail("no seed gives the category's prompt to the estimation")


@pytest.mark.parametrize("objective", ["worst", "weighted"])
def test_a_plan_has_no_categories(prompts: Path, objective: str) -> None:
    weights = "code=1" if objective == "weighted" else None
    with pytest.raises(BadRequest, match=f"--objective {objective}: a plan has none of the target's text"):
        asked(prompts, RunKind.PLAN, objective=objective, category_weights=weights)


def text(train: str, estimate: str, validate: str) -> WorkloadTraces:
    """Text whose traces have these categories, a letter each."""
    split = [SimpleNamespace(items=[SimpleNamespace(category=letter) for letter in part]) for part in (train, estimate)]
    return WorkloadTraces(*cast(Any, split), validate=(), validate_categories=tuple(validate))


def test_categories_without_text_or_weight_are_told() -> None:
    assert category_notes(MEAN, text("aab", "ab", "ba")) == []
    assert category_notes(MEAN, text("abc", "ab", "a")) == [
        "no text is left to estimate TAR on of the categories c",
        "no text is left to decode in the validation of the categories b, c",
    ]
    assert category_notes(weighted({"a": 1}), text("abc", "abc", "abc")) == [
        "categories without a weight count for nothing: b, c"
    ]
