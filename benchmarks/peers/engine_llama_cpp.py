"""llama.cpp through `xllamacpp`: its server's queue and slots in this process, without HTTP, alone or with a draft.

Keys and values are kept in fp32, as everyone's here.  Its answer tells how many drafted tokens were accepted, and the
seconds of the prompt, behind which its first token comes at once.
"""

import time
from collections.abc import Sequence

import xllamacpp

from benchmarks.peers.protocol import Answer, Generate, Setup, serve

_GGML_TYPE_F32 = 0


def open_engine(setup: Setup) -> Generate:
    """Two GGUF files."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = setup.target
    parameters.n_ctx = setup.capacity_tokens
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = setup.threads
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type(_GGML_TYPE_F32)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    if not setup.settings.get("alone"):
        parameters.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        draft = parameters.speculative.draft
        draft.mparams.path = setup.draft
        draft.n_max, draft.n_min, draft.p_min = setup.lookahead, 0, 0.0
        draft.n_gpu_layers = 0
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = setup.threads
        draft.cache_type_k = draft.cache_type_v = xllamacpp.ggml_type(_GGML_TYPE_F32)
    server = xllamacpp.Server(parameters)

    def generate(prompt: Sequence[int], count: int, temperature: float, seed: int) -> Answer:
        request = {
            "prompt": list(prompt),
            "max_tokens": count,
            "temperature": temperature,
            "samplers": ["temperature"],
            "seed": seed,
            "cache_prompt": False,
            "return_tokens": True,
            "verbose": True,
            "stream": False,
        }
        began = time.perf_counter()
        answer = server.handle_completions(request)
        total_s = time.perf_counter() - began
        if "__verbose" not in answer:
            raise RuntimeError(f"llama.cpp did not answer: {answer}")
        tokens, timings = list(answer["__verbose"]["tokens"]), answer["timings"]
        rounds = len(tokens) - int(timings.get("draft_n_accepted", 0))
        return Answer(tokens, total_s, timings["prompt_ms"] / 1000, rounds, timings["predicted_ms"] / 1000)

    return generate


if __name__ == "__main__":
    serve(open_engine)
