"""Work on many items in several processes, of which one that fails or dies costs its own item only."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from common.errors import UserError


def count_workers(workers: int | None) -> int:
    """--workers, or one a core that this process may use."""
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 0:
        raise UserError(f"--workers {workers} must be 0 or more")
    return workers


class WorkerDied(RuntimeError):
    """A worker process was killed while it worked on an item, mostly for want of memory."""


def run_each(
    job: Callable, tasks: Iterable[tuple], workers: int, window: int | None = None
) -> Iterator[tuple[tuple, BaseException | None]]:
    """Call `job(*task)` for every task and yield (task, None or the exception it raised), in the order they end.

    workers: processes; 0 works in this process, without the safety. A task that kills its process is yielded with
    WorkerDied; those that ran beside it are done again, so a job must bear being repeated. `tasks` is read as needed,
    so that at most `window` are under way; if it is not given, two a worker. Closing the generator (an exception in the
    caller's loop) starts no further task.
    """
    tasks = iter(tasks)
    window = window or 2 * max(workers, 1)
    while lost := (yield from _run(_pool(workers), job, tasks, window)):
        suspects = iter(lost)  # one of them killed its worker: alone, it names itself
        while culprit := (yield from _run(_pool(1), job, suspects, 1)):
            yield culprit[0], WorkerDied("its worker process was killed; was there enough memory?")


def _run(pool: Executor, job: Callable, tasks: Iterator[tuple], window: int) -> Generator[tuple, None, list[tuple]]:
    """Yield the tasks that end, with at most `window` under way, until none is left or a worker dies: then return those
    that had begun.
    """
    running, lost = {}, []
    try:
        while not lost:
            for task in islice(tasks, window - len(running)):
                try:
                    running[pool.submit(job, *task)] = task
                except BrokenProcessPool:  # while this task was made
                    return [task, *running.values()]
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    lost = [task, *running.values()]
                    break
                yield task, error
    finally:
        pool.shutdown(cancel_futures=True)
    return lost


def _pool(workers: int) -> Executor:
    if workers == 0:
        return ThreadPoolExecutor(1)
    # Spawned, not forked: a fork copies locks, open files and the state of other threads.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and end with it even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
