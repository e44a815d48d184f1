"""ONNX Runtime GenAI: its own generator, alone or with a draft.  Runs in an environment of its own.

It is asked as it is fastest.  A seed is given to greedy requests too, or the generator would collect 624 words from the
system's source of randomness, 12 ms and more.  The whole vocabulary is sampled as the likeliest tokens, all of them:
`top_k=0` takes another way, which sorts for a bound on the probability that does not bind.
"""

from collections.abc import Iterator, Sequence

import onnxruntime_genai as og

from benchmarks.peers.protocol import Answer, Generate, Setup, serve, timed


def open_engine(setup: Setup) -> Generate:
    """The folder that `benchmarks.peers.genai_export` wrote: of the pair, or of the target alone."""
    alone = setup.settings.get("alone")
    model = og.Model(setup.target)

    def generate(prompt: Sequence[int], count: int, temperature: float, seed: int) -> Answer:
        params = og.GeneratorParams(model)
        common = {"max_length": len(prompt) + count, "random_seed": seed}
        if temperature:
            params.set_search_options(do_sample=True, temperature=temperature, top_k=setup.vocab, top_p=1.0, **common)
        else:
            params.set_search_options(do_sample=False, **common)
        if not alone:
            params.set_speculative_options(max_draft_tokens=setup.lookahead)
        generators = []

        def steps() -> Iterator[list[int]]:
            generator = og.Generator(model, params)
            generators.append(generator)
            generator.append_tokens(list(prompt))
            while not generator.is_done():
                generator.generate_next_token()
                yield generator.get_next_tokens().tolist()

        tokens, total_s, first_s = timed(steps())
        rounds = len(tokens) if alone else int(generators[0].get_speculative_stats()["rounds"])
        return Answer(tokens, total_s, first_s, rounds)

    return generate


if __name__ == "__main__":
    serve(open_engine)
