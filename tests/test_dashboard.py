"""The study that a run leaves opens in optuna-dashboard."""

import io
import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from tests.support.evaluators import tiny_space
from tests.support.searches import Bench

dashboard = pytest.importorskip("optuna_dashboard")


def get(app: Any, path: str) -> Any:
    """The JSON that the application answers with."""
    environment: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environment)
    answered: list[str] = []
    body = b"".join(app(environment, lambda status, _headers, _error=None: answered.append(status)))
    assert answered == ["200 OK"], body
    return json.loads(body)


def test_a_runs_study_loads_with_every_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run", tiny_space(layers="1:2"))
    found = bench.search()
    app = dashboard.wsgi(bench.storage)
    (study,) = get(app, "/api/studies")["study_summaries"]
    assert study["study_name"] == "autotune"
    detail = get(app, f"/api/studies/{study['study_id']}")
    assert detail["directions"] == ["minimize", "maximize"]
    complete = [trial for trial in detail["trials"] if trial["state"] == "Complete"]
    assert len(complete) >= len(found.scored)  # a build that is proposed again is told again
    seconds_and_tokens = {tuple(trial["values"]) for trial in complete}
    assert seconds_and_tokens == {(score.round_s.value, score.tokens_per_round.value) for _, score in found.scored}
