"""Our pair: compiled programs and the decoder.  settings: `alone` (no draft)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from autotune.program import Drafting
from autotune.runtime.decode import Decoder, DecodeRequest, Statistics
from autotune.runtime.drafter import ModelDrafter
from autotune.runtime.session import open_session
from autotune.sampling import SamplingSettings
from benchmarks.peers.protocol import Answer, Generate, Setup, serve, timed


def open_engine(setup: Setup) -> Generate:
    """The pair of two program folders."""
    target = open_session(Path(setup.target), setup.threads)
    drafter, lookahead = None, 0
    if not setup.settings.get("alone"):
        draft = open_session(Path(setup.draft), setup.threads)
        draft.drafting = Drafting(setup.settings["drafting"])
        drafter, lookahead = ModelDrafter(draft), setup.lookahead
    decoder = Decoder(target, drafter, lookahead)

    def generate(prompt: Sequence[int], count: int, temperature: float, seed: int) -> Answer:
        request = DecodeRequest(prompt, count, SamplingSettings(temperature), seed, frozenset(setup.eos_ids))
        statistics = Statistics()

        def steps() -> Iterator[list[int]]:
            for done in decoder.rounds(request, statistics):
                yield done.tokens

        tokens, total_s, first_s = timed(steps())
        return Answer(tokens, total_s, first_s, statistics.rounds, statistics.decode_s)

    return generate


if __name__ == "__main__":
    serve(open_engine)
