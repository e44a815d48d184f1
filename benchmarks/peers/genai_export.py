"""Writes a pair as ONNX Runtime GenAI reads it: our own graphs under its names, and `genai_config.json`.

GenAI hands its models an attention mask; ours take positions, which three operators count out of it.  Its cache is the
same: one buffer per layer, past and present, as long as the longest sequence.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from autotune.compile.base import CompileSettings, build_program
from autotune.number_formats import Precision
from autotune.ort_layout import MODEL_FILE, WEIGHTS_FILE
from autotune.targets import Target


def export(
    target: Target, draft: Target | None, folder: Path, *, capacity_tokens: int, lookahead: int, threads: int
) -> None:
    """Write the folder that `onnxruntime_genai.Model` opens."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {"decoder": target} | ({} if draft is None else {"draft": draft})
    model: dict[str, Any] = {
        "type": "llama",
        "bos_token_id": target.eos_ids[0] if target.eos_ids else 0,
        "eos_token_id": list(target.eos_ids) or [target.shape.vocab],
        "pad_token_id": target.eos_ids[0] if target.eos_ids else 0,
        "context_length": capacity_tokens,
        "vocab_size": target.shape.vocab,
    }
    for role, each in models.items():
        model[role] = _decoder(each, folder / f"{role}.onnx", capacity_tokens, threads)
    config: dict[str, Any] = {
        "model": model,
        "search": {"max_length": capacity_tokens, "past_present_share_buffer": True},
    }
    if draft is not None:
        config["speculative"] = {"max_draft_tokens": lookahead}
    (folder / "genai_config.json").write_text(json.dumps(config, indent=2) + "\n")
    for path in target.checkpoint.glob("tokenizer*"):
        shutil.copy(path, folder)


def _decoder(model: Target, path: Path, capacity_tokens: int, threads: int) -> Mapping[str, Any]:
    """Writes a model's graph; returns its section of the configuration."""
    program = path.with_suffix(".program")
    build_program("onnxruntime", model.read_weights(), CompileSettings(Precision.FP32, capacity_tokens), program)
    graph = onnx.load(program / MODEL_FILE, load_external_data=False)
    data = f"{path.stem}.weights"
    (program / WEIGHTS_FILE).rename(path.with_name(data))
    shutil.rmtree(program)
    onnx.save(renamed(graph, model.shape.layers, data), path)
    cache = graph.graph.input[3].type.tensor_type.shape.dim
    return {
        "session_options": {"intra_op_num_threads": threads, "inter_op_num_threads": 1, "provider_options": []},
        "filename": path.name,
        "head_size": cache[3].dim_value,
        "hidden_size": model.shape.hidden,
        "num_attention_heads": model.shape.heads,
        "num_hidden_layers": model.shape.layers,
        "num_key_value_heads": model.shape.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }


def renamed(model: onnx.ModelProto, layers: int, data: str) -> onnx.ModelProto:
    """Our decoder's graph with GenAI's inputs and outputs, its weights in the file `data`."""
    names = {"tokens": "input_ids"}
    for layer in range(layers):
        for part in ("key", "value"):
            names[f"past.{layer}.{part}"] = f"past_key_values.{layer}.{part}"
    graph = model.graph
    nodes = [*_positions(), *graph.node]
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data
    kept = [value for value in graph.input if value.name.startswith("past.")]
    for value in kept:
        value.name = names[value.name]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "n"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
        *(_sized_at_run_time(value) for value in kept),
    ]
    # The arg-max would be computed at every call, whoever asked for it.
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "n", _width(graph, "logits")]),
        *(_sized_at_run_time(value) for value in graph.output if value.name.startswith("present.")),
    ]
    new = helper.make_graph(
        _needed(nodes, [value.name for value in outputs]), "decoder", inputs, outputs, list(graph.initializer)
    )
    return helper.make_model(new, opset_imports=model.opset_import, ir_version=model.ir_version)


def _positions() -> list[onnx.NodeProto]:
    """`seqlens_k` and `total_sequence_length` out of GenAI's attention mask `[batch, total]`."""
    axis, one = (helper.make_tensor(f"genai.{name}", TensorProto.INT64, [1], [1]) for name in ("axis", "one"))
    return [
        helper.make_node("Constant", [], ["genai.axis"], value=axis),
        helper.make_node("Constant", [], ["genai.one"], value=one),
        helper.make_node("ReduceSum", ["attention_mask", "genai.axis"], ["genai.count"], keepdims=0),
        helper.make_node("Sub", ["genai.count", "genai.one"], ["genai.last"]),
        helper.make_node("Cast", ["genai.last"], ["seqlens_k"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["genai.total"], start=1, end=2),
        helper.make_node("Squeeze", ["genai.total"], ["genai.length"]),
        helper.make_node("Cast", ["genai.length"], ["total_sequence_length"], to=TensorProto.INT32),
    ]


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that some output needs, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _sized_at_run_time(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """A cache whose length GenAI chooses."""
    dims = value.type.tensor_type.shape.dim
    shape = ["batch", dims[1].dim_value, f"{value.name}.length", dims[3].dim_value]
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape)


def _width(graph: onnx.GraphProto, name: str) -> int:
    (value,) = (each for each in graph.output if each.name == name)
    return int(value.type.tensor_type.shape.dim[-1].dim_value)
