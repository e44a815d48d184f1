"""The estimate against reality: teacher-forced counts on the demo equal the rounds that real greedy decoding takes.

Also with a head trimmed to 256 tokens, in which some of what the target writes is missing.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.acceptance import count_bursts, expected_rounds
from autotune.candidate import Precision
from autotune.compile.base import CompileSettings, build_program
from autotune.programs import compile_target
from autotune.proxy.criteria import calibrate
from autotune.proxy.prune import PrunedEstimator
from autotune.proxy.score_traces import acceptance_of
from autotune.runtime.decode import Decoder, DecodeRequest
from autotune.runtime.drafter import ModelDrafter
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings
from autotune.targets import resolve_target
from autotune.traces import record
from autotune.vocabulary import rank_tokens
from autotune.workload import read_prompts, tokenize


@pytest.mark.parametrize("draft_vocab", [None, 256])
@pytest.mark.parametrize("lookahead", [2, 5])
def test_rounds_of_real_decoding_are_predicted_exactly(tmp_path: Path, lookahead: int, draft_vocab: int | None) -> None:
    target = resolve_target("demo")
    prompts = tokenize(read_prompts("builtin")[140:400:33], target.open_tokenizer(), 512)
    session = open_session(compile_target(target, "onnxruntime"), threads=1)
    traces = record(session, target, prompts, SamplingSettings(), 48)
    source = target.read_weights()
    shape = replace(source.shape, layers=6)
    draft = PrunedEstimator(source, calibrate(source, [trace.tokens for trace in traces.items])).weights(shape)
    draft = rank_tokens(traces, shape.vocab, target.eos_ids).trim(draft, replace(shape, draft_vocab=draft_vocab))
    build_program("onnxruntime", draft, CompileSettings(Precision.FP32, 512), tmp_path)
    decoder = Decoder(session, ModelDrafter(open_session(tmp_path, threads=1)), lookahead)
    rounds, emitted = 0, np.zeros(lookahead + 1)
    for trace in traces.items:
        request = DecodeRequest(trace.prompt.tolist(), len(trace.continuation))
        tokens, statistics = decoder.decode(request)
        assert tokens == trace.continuation.tolist()
        rounds += statistics.rounds
        emitted[: len(statistics.emitted)] += statistics.emitted
    accepted = acceptance_of(draft, traces)
    assert 0.3 < np.concatenate(accepted).mean() < 0.99
    assert expected_rounds(accepted, lookahead)[1][:, lookahead].sum() == pytest.approx(rounds)
    np.testing.assert_allclose(count_bursts(accepted, lookahead).emitted, emitted, atol=1e-9)
