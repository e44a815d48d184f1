"""A target run by transformers' own model: sharded over GPUs, or offloaded to memory and disk if it does not fit."""

import inspect
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from autotune.candidate import Precision
from autotune.errors import BadRequest
from autotune.program import Program
from autotune.targets import Target
from autotune.traces import Tokens

_PRECISIONS = {torch.float32: Precision.FP32, torch.float16: Precision.FP16, torch.bfloat16: Precision.BF16}
Memory = Mapping[int | str, int | str]


class TransformersModel:
    """Logits of a checkpoint, computed by transformers in the precision that the checkpoint is stored in.

    Weights are dealt to the GPUs there are and to memory; what fits nowhere stays on disk and is read at every step.
    `max_memory` bounds each device (`{0: "20GiB", "cpu": "60GiB"}`).
    """

    def __init__(self, target: Target, threads: int, max_memory: Memory | None = None) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._offload = tempfile.TemporaryDirectory(prefix="autotune-offload-", ignore_cleanup_errors=True)
        try:
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                target.checkpoint,
                dtype="auto",
                use_safetensors=True,
                local_files_only=True,
                device_map="auto",
                max_memory=max_memory,
                offload_folder=self._offload.name,
            ).eval()
        except (OSError, ValueError) as error:
            raise BadRequest(f"transformers cannot open {target.id}: {' '.join(str(error).split())}") from error
        precision = _PRECISIONS.get(self._model.dtype)
        if precision is None:
            raise BadRequest(f"{target.id} is stored as {self._model.dtype}: fp32, fp16 or bf16 are needed")
        # Made without the model's configuration, a cache keeps all positions, so that rolling back is cutting its end.
        self._cache = transformers.DynamicCache()
        # Newer versions call it `cache`.
        named = "cache" in inspect.signature(self._model.forward).parameters
        self._cache_name = "cache" if named else "past_key_values"
        device = self._model.get_input_embeddings().weight.device.type
        self.program = Program(
            backend="transformers",
            device="cpu" if device == "meta" else device,
            precision=precision,
            shape=target.shape,
            numerics=target.numerics,
            capacity_tokens=target.numerics.context_tokens,
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """Where the weights are: `cpu`, `disk`, numbers of GPUs."""
        dealt: Mapping[str, Any] = getattr(self._model, "hf_device_map", None) or {"": "cpu"}
        return tuple(sorted({str(place) for place in dealt.values()}))

    def logits(self, tokens: Tokens, start: int) -> NDArray[np.float32]:
        """Logits `[n, vocab]` after each of the n tokens, the first of them at position `start`."""
        return self._forward(tokens, start).float().cpu().numpy()

    def greedy(self, tokens: Tokens, start: int) -> NDArray[np.int64]:
        """The arg-max token `[n]` after each of the n tokens."""
        return self._forward(tokens, start).argmax(-1).cpu().numpy()

    def _forward(self, tokens: Tokens, start: int) -> torch.Tensor:
        cached = self._cache.get_seq_length()
        if start > cached:
            raise ValueError(f"position {start} is behind the {cached} that are cached")
        if start < cached:
            self._cache.crop(start - cached)  # a negative length is one to take away
        ids = torch.as_tensor(np.asarray(tokens, np.int64))[None]
        with torch.inference_mode():
            output = self._model(input_ids=ids, use_cache=True, **{self._cache_name: self._cache})
        logits: torch.Tensor = output.logits[0]
        return logits
