"""transformers: `generate`, alone or assisted.  settings: `alone`, or `schedule` (fixed, or the library's default)."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, set_seed

from benchmarks.peers.protocol import Answer, Generate, Setup, serve


class _Watch(StoppingCriteria):
    """Never stops anything: it is called after every round, and notes when and how often."""

    def __init__(self) -> None:
        self.first_at: float | None = None
        self.rounds = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.first_at = self.first_at or time.perf_counter()
        self.rounds += 1
        return torch.zeros(len(input_ids), dtype=torch.bool)


def open_engine(setup: Setup) -> Generate:
    """Two checkpoint folders in fp32."""
    torch.set_num_threads(setup.threads)
    target = AutoModelForCausalLM.from_pretrained(setup.target, dtype=torch.float32).eval()
    options: dict[str, Any] = {}
    if not setup.settings.get("alone"):
        assistant = AutoModelForCausalLM.from_pretrained(setup.draft, dtype=torch.float32).eval()
        options["assistant_model"] = assistant
        if setup.settings["schedule"] == "fixed":
            assistant.generation_config.num_assistant_tokens = setup.lookahead
            assistant.generation_config.num_assistant_tokens_schedule = "constant"
            assistant.generation_config.assistant_confidence_threshold = 0.0
        else:  # what a draft's folder says of its own k must not stand for the library's default
            for name in ("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"):
                setattr(assistant.generation_config, name, getattr(type(assistant.generation_config)(), name))
    end = {"eos_token_id": setup.eos_ids or None, "pad_token_id": setup.eos_ids[0] if setup.eos_ids else 0}

    def generate(prompt: Sequence[int], count: int, temperature: float, seed: int) -> Answer:
        set_seed(seed)
        watch = _Watch()
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        began = time.perf_counter()
        with torch.inference_mode():
            output = target.generate(
                torch.tensor([list(prompt)]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=count,
                stopping_criteria=[watch],
                use_cache=True,
                **(drawing if temperature else {"do_sample": False}),
                **end,
                **options,
            )
        total_s = time.perf_counter() - began
        tokens = output[0, len(prompt) :].tolist()
        return Answer(tokens, total_s, (watch.first_at or began) - began, watch.rounds)

    return generate


if __name__ == "__main__":
    serve(open_engine)
