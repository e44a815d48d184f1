"""Continuations of a whole file of prompts, as JSON lines in its order."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from autotune.pair import Options, Pair
from autotune.workload import read_prompts


def generate_file(
    open_pair: Callable[[], Pair],
    prompts: Path,
    out: Path | None,
    max_new_tokens: int,
    batch: int | None,
    lookahead: int | None,
    options: Options,
) -> str:
    """Write a line for each prompt to `out` (stdout if None), and return a sentence of statistics.

    The file is read before a pair is opened; batch, lookahead and options: see `Pair.generate_batch`.
    """
    texts = [prompt.text for prompt in read_prompts(prompts)]
    with open_pair() as pair:
        generations = pair.generate_batch(texts, max_new_tokens, batch=batch, lookahead=lookahead, **options)
        done = pair.statistics
    lines = "".join(
        json.dumps(
            {
                "prompt": prompt,
                "text": each.text,
                "tokens": list(each.tokens),
                "rounds": each.statistics.rounds,
                "drafted": each.statistics.drafted,
            },
            ensure_ascii=False,
        )
        + "\n"
        for prompt, each in zip(texts, generations, strict=True)
    )
    if out is None:
        sys.stdout.write(lines)
    else:
        out.write_text(lines, encoding="utf-8")
    return (
        f"{len(texts)} prompts, {done.tokens} tokens in {done.rounds} rounds of single sequences "
        f"({done.tokens_per_round:.2f} tokens per round), {done.tokens_per_s:.0f} tokens/s together"
    )
