"""How many threads TVM's kernels use.

TVM keeps one pool of workers for every thread that calls it, sized once, when that thread first runs a kernel: by
TVM_NUM_THREADS, else OMP_NUM_THREADS, else half of the processors.  How many of these workers take part can be changed
at any time; that is what sessions do.  So the environment, unless the user has set it, asks for a pool as large as the
machine, and for workers that

* are not bound to cores (TVM_BIND_THREADS): bound ones of two processes would share a core while another idles;
* wait awake only for about a millisecond (TVM_THREAD_POOL_SPIN_COUNT), long enough for the next kernel of a step and
  too short to steal cores from the other model of the pair.
"""

import os
import threading
from collections.abc import Callable

import psutil

SPIN_COUNT = 2000
_BIG_CORES = 1
"""TVM's name for workers on all cores."""

_caller = threading.local()


def prepare_pool(threads: int) -> None:
    """Set the environment that the pools of this process are made from; pools that exist stay as they are."""
    workers = max(threads, psutil.cpu_count() or 1)
    os.environ.setdefault("TVM_NUM_THREADS", str(workers))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", str(SPIN_COUNT))


def use_threads(threads: int, configure: Callable[[int, int], object]) -> None:
    """Have kernels called from this thread use that many threads; configure: TVM's `runtime.config_threadpool`."""
    if getattr(_caller, "threads", None) != threads:
        configure(_BIG_CORES, threads)
        _caller.threads = threads
