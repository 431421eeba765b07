"""Claim: `decide` scores all 20 decisions in less time than `generate` takes to write one of them.

Both on the same machine, in the same run, alternating, one thread, 320x180 frames. Prints times and ratios.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from senna2_core.actions import DirectionAction
from senna2_core.objects import Navigation
from senna2_vlm.decide import DecisionModel
from senna2_vlm.prompt import ANSWERS


@dataclass(frozen=True, kw_only=True)
class Args:
    """Time decide() against its peers."""

    model: str = "models/small-s1/vlm"
    """folder or hub name"""
    repeats: int = 30
    """measurements of each"""
    device: str = "cpu"
    """torch device"""
    threads: int = 1
    """CPU threads"""


def main(args: Args) -> float:
    """Returns time of generate / time of decide."""
    torch.set_num_threads(args.threads)
    vlm = DecisionModel.from_pretrained(args.model, args.device)
    longest = max(len(ids) for ids in vlm.parts.tokenizer(list(ANSWERS)).input_ids)
    navigation = Navigation(
        command=DirectionAction.TURN_LEFT,
        text="turn left in 25 m",
        target_point=np.array([25.0, 9.0]),
        speed_limit_mps=13.9,
    )
    rng = np.random.default_rng(0)
    ways = {
        "decide, 20 answers in one pass": lambda image: vlm.decide(image, navigation, 8.0),
        f"generate, {longest} tokens": lambda image: vlm.explain(image, navigation, 8.0, max_new_tokens=longest),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(args.repeats + 2):
        image = rng.integers(0, 256, (180, 320, 3), dtype=np.uint8)
        for name, call in ways.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            call(image)
            if repeat >= 2:  # the first ones warm up
                wall[name].append(1e3 * (time.perf_counter() - start))
                cpu[name].append(1e3 * (time.process_time() - start_cpu))
    for name, values in wall.items():
        p50, p95 = np.percentile(values, [50, 95])
        print(f"{name:32} p50 {p50:6.1f} ms, p95 {p95:6.1f} ms; on the CPU, p50 {np.median(cpu[name]):6.1f} ms")
    decide, generate = map(np.median, wall.values())
    print(f"generate / decide = {generate / decide:.2f}")
    return float(generate / decide)


if __name__ == "__main__":
    main(tyro.cli(Args))
