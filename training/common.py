"""What every training stage needs: seeds, interruption, exact resume, cosine decay. No trainer."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from senna2_core.checkpoints import load_checkpoint, save_checkpoint
from senna2_core.interrupts import interruptible as interruptible


def step_generator(seed: int, step: int, part: int = 0) -> torch.Generator:
    """Random numbers of a part of one training step: they depend on nothing else, so that a resumed run, and one with
    more processes, repeats them. Dropout, which takes no generator, is seeded with the same number."""
    words = [seed, step, part] if part else [seed, step]
    number = int(np.random.SeedSequence(words).generate_state(1)[0])
    torch.manual_seed(number)
    return torch.Generator().manual_seed(number)


def seed_everything(seed: int, threads: int = 1) -> None:
    """Seed initialisation and dropout, use this many threads."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: linear warm-up, then cosine decay to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def save_progress(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    stage: str,
    args: dict[str, Any],
    best: float,
) -> None:
    """Everything needed to go on as if nothing had happened, without pickle."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    config = {"step": step, "best": best if math.isfinite(best) else None, "args": args}
    save_checkpoint(folder, tensors, module="progress", stage=stage, config=config, provenance={})


HARMLESS = {  # may differ when a run goes on
    "resume", "threads", "workers", "out", "run", "bags", "start", "vlm", "closed_loop_rig", "closed_loop_workers",
    "bag_bytes",  # is looked at more closely
}  # fmt: skip


def load_progress(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, stage: str, args: dict[str, Any]
) -> tuple[int, float]:
    """Continue what `save_progress` wrote: step to do next, best validation so far. (0, inf) where nothing is.

    Args:
        args: settings, JSON-ready; among them steps, the folder bags and its bag_bytes (`training.data.bag_bytes`).
    Raises:
        ValueError: the run there was started with other settings, or it is not at its end and the bags have changed.
    """
    if not (folder / "config.json").exists():
        return 0, math.inf
    config, tensors, _ = load_checkpoint(folder, module="progress", stages=(stage,))
    decisive = (args.keys() | config["args"].keys()) - HARMLESS
    changed = sorted(k for k in decisive if args.get(k) != config["args"].get(k))
    if changed:
        was = {k: config["args"].get(k) for k in changed}
        raise ValueError(f"{folder}: this run was started with {was}; use the same settings, or leave --resume out")
    then, now = config["args"].get("bag_bytes"), args["bag_bytes"]  # None: progress from before it was noted
    if then not in (None, now) and config["step"] < args["steps"]:
        both = then.keys() & now.keys()
        other = {name for name in both if then[name] != now[name]}
        found = {"new": now.keys() - both, "gone": then.keys() - both, "changed": other}
        told = ", ".join(f"{len(names)} {what} (e.g. {min(names)})" for what, names in found.items() if names)
        raise ValueError(
            f"{args['bags']}: its bags are not those that {folder} was begun with: {told}; put these back, or leave "
            "--resume out to begin anew"
        )
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(config["step"]), math.inf if config["best"] is None else config["best"]


def command_line(module: str) -> str:
    """For a checkpoint's provenance."""
    import sys

    return f"python -m {module} " + " ".join(sys.argv[1:]) if sys.argv[0].endswith(".py") else f"python -m {module}"
