"""Traces of a target that a server runs."""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np

from autotune.alternatives import damage, ranked_alternatives
from autotune.cache import content_key
from autotune.endpoint.address import Endpoint, served_fingerprint
from autotune.endpoint.answers import UNKNOWN, Answer, Drawn
from autotune.endpoint.asking import TextIds, ask, request_body
from autotune.endpoint.checks import check_continuation, check_probabilities, check_tokenizer, most_ranked
from autotune.endpoint.client import PATIENCE, Client, EndpointError, Patience, RefusedError
from autotune.endpoint.journal import Continuation, Journal, Packed
from autotune.errors import BadRequest
from autotune.sampling import SamplingSettings
from autotune.targets import TextModel
from autotune.traces import Trace, Traces
from autotune.workload import PromptTokens

CONCURRENCY = 8
"""Requests under way at once."""


@dataclass(frozen=True)
class _Job:
    """A prompt to be continued."""

    prompt: PromptTokens
    tokens: int
    """Longest continuation."""
    seed: int
    alternatives: bool

    @property
    def key(self) -> str:
        asked = ["alternatives"] if self.alternatives else []
        return content_key(self.prompt.ids.tolist(), self.tokens, self.seed, *asked)


def record_served(
    endpoint: Endpoint,
    model: TextModel,
    prompts: Sequence[PromptTokens],
    settings: SamplingSettings,
    max_new_tokens: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    alternatives: bool = False,
    *,
    context_tokens: int | None = None,
    concurrency: int = CONCURRENCY,
    patience: Patience = PATIENCE,
) -> Traces:
    """Traces of the model behind an endpoint, whose tokenizer must be `model`'s; in the order of the prompts.

    A continuation ends at an EOS, after `max_new_tokens`, or where the context ends (the model's, the server's, or
    `context_tokens`).  Each is kept as soon as it is whole: a recording that fails goes on where it stopped.  Greedy
    continuations are checked to be the server's most likely tokens; of sampled ones the log-probability is that of
    the distribution drawn from, or the recording is refused.  What is drawn depends on the server, which may or may
    not heed seeds.  `alternatives` are as many as the server tells, of tokens whose ids are known; of prompts, only
    where greedy workloads are asked of vLLM.
    """
    if max_new_tokens < 1:
        raise BadRequest(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    limits = (model.numerics.context_tokens, endpoint.context_tokens, context_tokens)
    jobs = _plan(prompts, min(limit for limit in limits if limit), max_new_tokens, seed, alternatives)
    served = served_fingerprint(endpoint, model.tokenizer_fingerprint)
    journal_key = content_key(served, model.eos_ids, model.shape.vocab, vars(settings))
    with Journal(journal_key) as journal:
        missing = list({job.key: job for job in jobs if job.key not in journal.known}.values())
        if missing:
            _ask_all(endpoint, model, missing, settings, journal, (len(jobs), on_progress, concurrency), patience)
        traces = tuple(_trace(job, journal.known[job.key], settings) for job in jobs)
    return Traces(traces, settings, model.fingerprint, model.tokenizer_fingerprint, seed)


def _plan(
    prompts: Sequence[PromptTokens], context_tokens: int, max_new_tokens: int, seed: int, alternatives: bool
) -> list[_Job]:
    jobs = []
    seen: Counter[int] = Counter()
    for prompt in prompts:
        room = context_tokens - len(prompt.ids)
        if room < 1:
            raise BadRequest(
                f"the prompt from {prompt.source} has {len(prompt.ids)} tokens and leaves no room in the context "
                f"of {context_tokens}"
            )
        # As with local targets: luck depends on the seed and the prompt, and a repeated prompt has luck of its own.
        content = zlib.crc32(prompt.ids.tobytes())
        luck = np.random.SeedSequence([seed, content, seen[content]]).generate_state(1)[0]
        seen[content] += 1
        jobs.append(_Job(prompt, min(max_new_tokens, room), int(luck) >> 1, alternatives))
    return jobs


def _ask_all(
    endpoint: Endpoint,
    model: TextModel,
    missing: Sequence[_Job],
    settings: SamplingSettings,
    journal: Journal,
    pace: tuple[int, Callable[[int, int], None] | None, int],
    patience: Patience,
) -> None:
    """Fill the journal with what is missing."""
    total, on_progress, concurrency = pace
    done = total - len(missing)
    tokenizer = model.open_tokenizer()
    token_id = TextIds(tokenizer, model.shape.vocab)
    prompts = [job.prompt.ids.tolist() for job in missing]
    with Client(endpoint, patience) as client:

        def draw(job: _Job, ranked: int) -> None:
            body = request_body(job.prompt.ids.tolist(), settings, job.tokens, job.seed, model.eos_ids, ranked)
            answer = ask(client, body, token_id)
            check_continuation(answer, settings, model, tokenizer)
            tokens = [drawn.token for drawn in answer.drawn]
            ends = [place + 1 for place, token in enumerate(tokens) if token in model.eos_ids]
            kept = answer.drawn[: ends[0]] if ends else answer.drawn
            if not kept:
                raise EndpointError(f"the server gave no token behind the prompt from {job.prompt.source}")
            journal.add(
                job.key,
                Continuation(
                    tokens=tuple(drawn.token for drawn in kept),
                    logprobs=tuple(0.0 if settings.greedy else drawn.logprob for drawn in kept),
                    # Where greedy tokens were checked to be the most likely ones, rounding may name another.
                    top=tuple(drawn.token if settings.greedy else drawn.top for drawn in kept),
                    prompt_top=answer.prompt_top,
                    alternatives=_alternatives(answer, kept, len(body["prompt"]), ranked) if job.alternatives else None,
                ),
            )

        pool = ThreadPoolExecutor(max(1, min(concurrency, len(missing))), "endpoint")
        try:
            check_tokenizer(client, model)
            check_probabilities(client, settings, prompts, token_id)
            ranked = most_ranked(client, settings, prompts[0], token_id) if missing[0].alternatives else 1
            futures = [pool.submit(draw, job, ranked) for job in missing]
            for finished in as_completed(futures):
                finished.result()
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
        except EndpointError as error:
            client.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            wanted = {job.key for job in missing}
            kept = total - len(wanted - journal.known.keys())
            if kept and not isinstance(error, RefusedError):
                raise EndpointError(
                    f"{error}; {kept} of {total} traces are kept, and the same command goes on with the others"
                ) from error
            raise
        finally:
            client.stop()
            pool.shutdown(wait=True, cancel_futures=True)


def _alternatives(answer: Answer, kept: Sequence[Drawn], prompt_tokens: int, most: int) -> Packed | None:
    """At most so many of the likeliest tokens of each place; EndpointError if they contradict each other.

    vLLM adds the token that was drawn, or is there in the prompt, however unlikely it is.
    """
    of_prompt = answer.prompt_ranked or ()
    if len(of_prompt) != prompt_tokens:
        of_prompt = ((),) * prompt_tokens
    places = [(), *of_prompt[1:], *(drawn.ranked for drawn in kept)]
    if not any(places):
        return None
    alternatives = ranked_alternatives([place[:most] for place in places])
    problem = damage(alternatives)
    if problem:
        raise EndpointError(f"the server's log-probabilities cannot be right: {problem}")
    return Packed.pack(alternatives)


def _trace(job: _Job, answer: Continuation, settings: SamplingSettings) -> Trace:
    prompt_tokens = len(job.prompt.ids)
    unknown = (UNKNOWN,) * prompt_tokens
    prompt_top = answer.prompt_top if answer.prompt_top and len(answer.prompt_top) == prompt_tokens else unknown
    return Trace(
        job.prompt.ids,
        np.array(answer.tokens, np.int32),
        np.array(answer.logprobs, np.float32),
        np.array([UNKNOWN, *prompt_top[1:], *answer.top], np.int32),
        job.prompt.category,
        None if answer.alternatives is None else answer.alternatives.unpack(),
    )
