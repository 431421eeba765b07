"""Jobs on worker processes of this machine, or on a Ray cluster. A worker that dies takes no job with it.

Both ways yield (job, answer) as answers come; every job once. An answer is what `work` returned, or a Failure. `work`
is a function of a module, jobs and answers are plain data.
"""

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

Answers = Generator[tuple[Any, Any], None, None]
ATTEMPTS = 3  # a job whose worker died runs again, twice at most


@dataclass(frozen=True)
class Failure:
    """A job without an answer."""

    reason: str


def quiet_threads() -> None:
    """Environment of worker processes: one thread each, passive waiting."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["OMP_WAIT_POLICY"] = "passive"


def on_processes(work: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Answers:
    """Run jobs on spawned processes, so many at a time. Closing the iterator ends the processes at once."""
    context = multiprocessing.get_context("spawn")
    queue = deque((job, 1) for job in jobs)
    crew: dict[Connection, tuple[SpawnProcess, Any, int]] = {}  # process, its job, attempt
    try:
        while queue or crew:
            while queue and len(crew) < workers:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, work), daemon=True)
                process.start()
                theirs.close()  # so that a dead worker's pipe ends
                crew[ours] = (process, *queue.popleft())
                _hand_over(ours, crew[ours][1])
            ready = set(wait(list(crew)))
            for ours in [connection for connection in crew if connection in ready]:
                process, job, attempt = crew.pop(ours)
                try:
                    answer = ours.recv()
                except (EOFError, ConnectionResetError):
                    ours.close()
                    process.join()
                    if attempt < ATTEMPTS:
                        queue.appendleft((job, attempt + 1))
                    else:
                        yield job, Failure(f"its worker died {ATTEMPTS} times (exit code {process.exitcode})")
                    continue
                if queue:
                    crew[ours] = (process, *queue.popleft())
                    _hand_over(ours, crew[ours][1])
                else:
                    ours.close()
                    process.join()
                yield job, answer
    finally:
        for ours, (process, *_) in crew.items():
            process.terminate()
            ours.close()
            process.join()


def work_off(
    work: Callable[[Any], Any],
    jobs: Sequence[Any],
    workers: int,
    label: str,
    finish: Callable[[Any, Any], str],
    give_up: Callable[[], bool],
    *,
    done: int = 0,
    ray: str | None = None,
) -> None:
    """Run jobs of clips with a progress bar.

    Args:
        work, jobs, workers: as of `on_processes`.
        label: of the bar.
        finish: takes each job with its answer and says what the bar shows.
        give_up: asked after each answer.
        done: clips that were there before.
        ray: address of a cluster, see `on_ray`; None: processes of this machine.
    """
    from tqdm import tqdm

    workers = min(workers, len(jobs))
    answers = on_processes(work, jobs, workers) if ray is None else on_ray(work, jobs, workers, ray)
    bar = tqdm(total=done + len(jobs), initial=done, desc=label, unit="clip", mininterval=1.0, smoothing=0.1)
    with closing(answers), bar:
        for job, answer in answers:
            bar.set_postfix_str(finish(job, answer), refresh=False)
            bar.update()
            if give_up():
                break


def _hand_over(connection: Connection, job: Any) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # dead already: its answer will be the pipe's end
        connection.send(job)


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent decides
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone or needs no more
        while True:
            connection.send(_answer(work, connection.recv()))


def _answer(work: Callable[[Any], Any], job: Any) -> Any:
    try:
        return work(job)
    except (ValueError, OSError) as error:  # tells what is wrong; anything else is a defect
        return Failure(str(error))
    except Exception:
        return Failure(traceback.format_exc().strip())


def on_ray(work: Callable[[Any], Any], jobs: Sequence[Any], workers: int, address: str) -> Answers:
    """Run jobs as tasks of a Ray cluster, one core each.

    Args:
        workers: size of a cluster that is started for this; a running one uses what it has.
        address: "local" starts a cluster on this machine, "auto" finds a running one, HOST:PORT names one. Its
            machines need this repository, set up, at the same place.
    Raises:
        ValueError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("--ray: Ray is not installed; run .venv/bin/uv pip install --group ray") from error
    try:
        if address == "local":
            ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
        else:
            ray.init(address, log_to_driver=False)
    except Exception as error:  # Ray's are of many kinds
        raise ValueError(f"--ray {address}: no cluster ({error}); start one with: ray start --head") from error
    try:
        task = ray.remote(_alone).options(num_cpus=1, max_retries=ATTEMPTS - 1)
        running = {task.remote(work, job): job for job in jobs}
        while running:
            (done,), _ = ray.wait(list(running))
            job = running.pop(done)
            try:
                yield job, ray.get(done)
            except ray.exceptions.RayError as error:
                yield job, Failure(f"its worker died {ATTEMPTS} times ({error})")
    finally:
        ray.shutdown()


def _alone(work: Callable[[Any], Any], job: Any) -> Any:
    """On a machine whose environment is not ours."""
    quiet_threads()
    return _answer(work, job)
