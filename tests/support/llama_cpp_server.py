"""The HTTP server of llama.cpp, from the wheel `xllamacpp`, over a GGUF file.

Run as a program (`python llama_cpp_server.py MODEL.gguf CONTEXT SLOTS`) it serves until its standard input closes.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serve(model: Path, context: int, slots: int = 2) -> Iterator[str]:
    """The URL of a server of that GGUF file, `slots` sequences of `context` tokens at once, while the block runs."""
    log = model.with_suffix(".log")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, str(model), str(context), str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:  # llama.cpp may print, too
            if line.startswith(b"listening "):
                break
        else:
            raise RuntimeError(f"llama.cpp's server did not start: {log.read_text()[-2000:]}")
        yield line.split()[1].decode()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _main(model: str, context: int, slots: int) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.model_alias = {"served"}
    parameters.n_ctx = context * slots
    parameters.n_parallel = slots
    parameters.kv_unified = False
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = 1
    parameters.warmup = False
    parameters.cache_prompt = False
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"listening {server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
