"""What every setting of a run means, in the words of `autotune run --help`, `autotune init` and the JSON Schema.

Nothing is imported here, so that `--help` and shell completion are quick; `autotune.config` gives types and checks.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One key of the configuration, and the flag of that name."""

    meaning: str
    default: str = ""
    """As a user would write it, or, where it is none, what that comes to; empty: there is nothing to say."""
    example: str = ""
    """A value, of settings whose default is none."""

    @property
    def help(self) -> str:
        """The meaning and the default, as one sentence."""
        default = {"true": "on", "false": "off"}.get(self.default, self.default)
        return f"{self.meaning}; default: {default}." if default else f"{self.meaning}."


WHAT = {
    "target": Setting(
        "Target: 'demo', a name of `autotune targets`, a checkpoint's folder, or owner/name on the hub", "demo"
    ),
    "source": Setting("Checkpoint drafts are cut from", "the target, or its usual source", "/models/small"),
    "download": Setting("Fetch what is missing of target and source from the hub", "false"),
    "device": Setting("Device to tune for: cpu or cuda", "cpu"),
    "strict": Setting("Refuse (exit code 3) what would rest on a stand-in, an extrapolation, or no decoding", "false"),
}
SEARCH_SPACE = {
    "layers": Setting("Layers: low:high[:step] or a,b,c", "what the source allows", "1:4"),
    "heads": Setting("Attention heads", "what the source allows", "2:8:2"),
    "kv_heads": Setting("Key/value heads", "what the source allows", "1:2"),
    "ffn": Setting("FFN size", "parts of the source's", "256,512,1024"),
    "hidden": Setting("Hidden size", "the source's", "256,384"),
    "draft_vocab": Setting(
        "Tokens a draft can propose, the most frequent ones: full, sizes, or both",
        "full, and a quarter of a vocabulary of 32,000 or more",
        "full,8192",
    ),
    "lookahead": Setting("Lookahead k", "0:8"),
    "precision": Setting(
        "Precisions of drafts: fp32, int8, int4 (cuda: fp16, bf16 …), with commas",
        "fp32,int8; on cuda fp16",
        "fp32,int8,int4",
    ),
    "backend": Setting(
        "Compilers of the drafts: onnxruntime, tvm or both; of the default, those that can be used here",
        "onnxruntime,tvm",
    ),
    "model_free": Setting(
        "Let drafters without a model (prompt lookup, a suffix automaton) take part; if one is as fast as the best "
        "draft, it ships instead",
        "true",
    ),
    "adaptive_k": Setting(
        "Also try to choose the winner's k round by round, by its own confidence: the gain is estimated from traces "
        "and, if it may be 1% or more, decoded against the fixed k; it ships only if faster beyond the noise. It gains "
        "a few percent at most (benchmarks.adaptive) and takes time",
        "false",
    ),
}
SEARCH = {
    "trials": Setting("Most builds to evaluate, by compiling or screening", "64"),
    "time_budget": Setting("Search time, e.g. 10m or 1h30m; the search ends with this or --trials", "10m"),
    "sampler": Setting(
        "Who proposes the next build: tpe, nsga2, gp (needs SciPy), random, or auto, the best by measurement", "auto"
    ),
    "screen": Setting(
        "Do not compile builds that would not move the Pareto front even at the optimistic end of the latency "
        "predicted from those measured; each still counts as one of --trials",
        "true",
    ),
    "refine": Setting(
        "Score builds on a quarter of the estimation traces while searching, and on half and all of them afterwards "
        "only those that stand on the front or may be finalists",
        "true",
    ),
    "validate": Setting("Finalists that really decode", "3"),
    "seed": Setting("Seed of everything random", "0"),
}
CONSTRAINTS = {
    "max_memory": Setting("Most memory for draft, cache and logits, e.g. 2GiB", "no limit", "2GiB"),
    "max_parameters": Setting("Most parameters of a draft, e.g. 2M or 1.3B", "no limit", "1.3B"),
    "max_latency": Setting("Longest round, e.g. 20ms", "no limit", "20ms"),
}
WORKLOAD = {
    "prompts": Setting("Prompts file (.jsonl or text, one a line), or 'builtin'", "builtin"),
    "traces": Setting(
        "Recorded traces (see `autotune traces`), or the URL of an OpenAI-compatible server of the target that is to "
        "record them",
        "recorded from the target here",
        "traces.safetensors",
    ),
    "model": Setting("The target's name at its server", "the only one there", "served-model"),
    "api_key": Setting("The server's key; better: $AUTOTUNE_API_KEY or $OPENAI_API_KEY", "", "key"),
    "max_new_tokens": Setting("Longest continuation", "64"),
    "temperature": Setting("Workload's temperature; 0 is greedy", "0.0"),
    "top_k": Setting("Workload's top-k; 0 is off", "0"),
    "top_p": Setting("Workload's top-p; 1 is off", "1.0"),
    "batch": Setting("Batch sizes to schedule the lookahead for, e.g. 1,4,16", "1"),
    "context": Setting(
        "Positions of every cache, at the end of which latencies are measured",
        "caches of the models' context (4096 at most), latencies behind 128 tokens",
        "2048",
    ),
    "objective": Setting(
        "What is maximised over the workload's categories: mean (of all text), worst (the smallest speed-up of any "
        "category) or weighted",
        "mean",
    ),
    "category_weights": Setting("Categories' shares of your tokens, for --objective weighted", "", "code=2,chat=1"),
}
TARGET = {
    "target_precision": Setting(
        "What the target is compiled in: fp32, or int8 or int4 (tvm, weights only); on cuda fp16, bf16",
        "fp32, on cuda fp16",
        "int8",
    ),
    "target_backend": Setting(
        "Compiler of the target", "the one of --backend with which a token takes least, alone or drafted", "onnxruntime"
    ),
    "target_tp": Setting("Devices the target is split over (tensor parallel)", "1"),
    "collective_latency": Setting(
        "One all-reduce among them, e.g. 20us", "measured where there are as many GPUs", "20us"
    ),
    "target_latency": Setting(
        'The target\'s latencies as you measured them: JSON {"verify_s": {"1": 0.041, …}} or CSV', "", "table.json"
    ),
}
TRAINING = {
    "proxy": Setting(
        "What candidates are judged by: pruned (no training), elastic (one training for all), recovered or "
        "learned-mask (each is trained by itself)",
        "elastic",
    ),
    "elastic_budget": Setting("Training of the elastic source, on a reference core", "2m"),
    "recover_tokens": Setting(
        "Training tokens of each candidate with --proxy recovered or learned-mask, e.g. 500k", "131072"
    ),
    "finish": Setting("Last distillation of each finalist", "30s"),
    "loss": Setting(
        "What trainings of drafts minimise: auto (the best by measurement), ce, kl, tv, log, sharp, ce+kl, ce+tv or "
        "kl+tv; all but ce learn from the target's likeliest tokens too, where traces have them",
        "auto",
    ),
    "train_device": Setting("Where proxy and finish train: cpu, cuda, or auto, cuda where torch has it", "auto"),
    "train_processes": Setting(
        "Processes that share every training step",
        "1 on the CPU, where they share --threads, and one for each GPU on cuda",
        "2",
    ),
}
COMPILING = {
    "threads": Setting("Threads", "chosen by measurement", "4"),
    "tune_kernels": Setting("Tune a TVM winner's kernels for up to this long, e.g. 5m; 0 is off", "0"),
    "build_timeout": Setting("Limit of one build", "2m"),
    "run_timeout": Setting("Limit of one measurement", "1m"),
    "worker_memory": Setting("Memory limit of one build or measurement", "half of what is here", "4GiB"),
    "database": Setting("Use, and add to, what earlier runs measured", "true"),
}
OUTPUT = {
    "out": Setting("Output folder", "autotune-run"),
    "resume": Setting("Continue the run in --out", "false"),
}
SECTIONS = {
    "What to tune": WHAT,
    "Search space": SEARCH_SPACE,
    "Search": SEARCH,
    "Constraints": CONSTRAINTS,
    "Workload": WORKLOAD,
    "The target's program and latency": TARGET,
    "Proxy and training": TRAINING,
    "Compiling and measuring": COMPILING,
    "Output": OUTPUT,
}
"""Every setting, in the order and under the headings in which people see them."""

SETTINGS = {key: setting for settings in SECTIONS.values() for key, setting in settings.items()}


def section_of(key: str) -> str:
    """The heading of a setting."""
    return next(title for title, settings in SECTIONS.items() if key in settings)
