"""Claim: one forward pass of `decide` gives what constrained greedy decoding writes, with all 20 probabilities, sooner.

Frames of clips that the expert drives. First, on each frame, `decide` beside transformers' own generate() bound to the
20 answers: decision, likelihood and hidden states. Then the time of both, alternating in the same run, one thread, and
where the time of `decide` goes. Writes docs/benchmarks/vlm.md. About 2 minutes on an idle core.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import tyro

from senna2_core.actions import ALL_DECISIONS
from senna2_core.objects import Navigation
from senna2_sim.env import SimEnv
from senna2_vlm.decide import DecisionModel
from senna2_vlm.prompt import ANSWERS
from training.driver import through_jpeg
from training.rollouts import front

FAMILIES = (
    "follow_stop", "turn_left", "cut_in", "curve", "hard_brake", "turn_right", "empty_road", "red_light",
    "lane_change", "stop_sign",
)  # fmt: skip
FIRST_SEED, STRIDE = 900, 4  # of validation clips; steps of 0.1 s between two frames
PARTS = ("image and prompt", "vision tower", "language model", "rest")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare decide() with generate(), and time both."""

    model: str = "models/small-s1/vlm"
    """folder or hub name"""
    frames: int = 500
    """on which the two are compared"""
    repeats: int = 60
    """measurements of each"""
    device: str = "cpu"
    """torch device"""
    threads: int = 1
    """CPU threads"""
    out: Path | None = None
    """page to write, e.g. docs/benchmarks/vlm.md"""


@dataclass(frozen=True, eq=False)
class Asked:
    """One frame and what comes with it."""

    image: np.ndarray  # as `DecisionModel.decide` takes it
    navigation: Navigation
    speed_mps: float


@dataclass(frozen=True, eq=False)
class Written:
    """What generate() wrote, bound to the 20 answers."""

    index: int  # of the decision
    log_likelihood: float  # of its tokens, over the whole vocabulary
    hidden: np.ndarray  # (2, D) final states of the last prompt token and of the last token of the answer


@dataclass(frozen=True)
class Agreement:
    """Of decide() with generate() on so many frames."""

    frames: int
    same: int  # decisions
    unsure: float  # where they differ: largest probability that the most probable answer has
    log_likelihood_error: float  # largest difference
    hidden_error: float  # largest difference over the largest state


def drive(count: int, lag_s: float, per_clip: int = 50) -> list[Asked]:
    """So many front frames, through JPEG as in the graph, at most per_clip of one clip; with those of lag_s before."""
    asked: list[Asked] = []
    for seed in itertools.count(FIRST_SEED):
        for family in FAMILIES:
            env = SimEnv(family, seed)
            world, fronts = env.world, []
            for step in range(STRIDE * min(per_clip, count - len(asked))):
                if world.done:
                    break
                fronts.append(through_jpeg({"front": env.images()["front"]})["front"])
                if step % STRIDE == 0:
                    asked.append(Asked(front(fronts, step, lag_s), world.navigation(), world.ego.speed_mps))
                world.step(world.expert_plan)
            if len(asked) == count:
                return asked
    raise AssertionError("unreachable")


def constrained_greedy(vlm: DecisionModel, asked: Asked) -> Written:
    """The answer that generate() writes when, at each token, only what continues one of the answers is allowed."""
    tokenizer, allowed = vlm.parts.tokenizer, defaultdict(set)
    answers = [tuple(ids) for ids in tokenizer(list(ANSWERS), add_special_tokens=False).input_ids]
    for ids in answers:
        for length, token in enumerate((*ids, tokenizer.convert_tokens_to_ids("<|im_end|>"))):
            allowed[ids[:length]].add(token)
    inputs = vlm._encode([asked.image], [asked.navigation], [asked.speed_mps])
    width = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        out = vlm.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=1 + max(map(len, answers)),
            prefix_allowed_tokens_fn=lambda _, ids: sorted(allowed[tuple(ids[width:].tolist())]),
            return_dict_in_generate=True,
            output_logits=True,
            output_hidden_states=True,
        )
    answer = tuple(out.sequences[0, width:].tolist())[:-1]
    steps = torch.stack([logits[0].float().log_softmax(-1) for logits in out.logits[: len(answer)]])
    states = torch.stack([out.hidden_states[step][-1][0, -1] for step in (0, len(answer))])
    return Written(
        index=answers.index(answer),
        log_likelihood=float(steps[range(len(answer)), answer].sum()),
        hidden=states.float().cpu().numpy(),
    )


def compare(vlm: DecisionModel, frames: Sequence[Asked]) -> Agreement:
    """Both on every frame.

    Raises:
        AssertionError: they differ and the greedy answer is not the less probable one, or more than half of the
            probability lies on the answer that greedy decoding missed; neither can happen if one pass is right.
    """
    same, unsure, likelihood, hidden = 0, 0.0, 0.0, 0.0
    for asked in frames:
        written = constrained_greedy(vlm, asked)
        with torch.inference_mode():
            scores, states = vlm.score([asked.image], [asked.navigation], [asked.speed_mps])
        rows = states[0, [0, 1 + written.index]].float().cpu().numpy()
        likelihood = max(likelihood, abs(float(scores[0, written.index]) - written.log_likelihood))
        hidden = max(hidden, float(np.abs(rows - written.hidden).max() / np.abs(written.hidden).max()))
        out = vlm.decide(asked.image, asked.navigation, asked.speed_mps)
        if out.decision == ALL_DECISIONS[written.index]:
            same += 1
            continue
        best = float(scores[0, out.decision.index].exp())
        assert scores[0, out.decision.index] > written.log_likelihood, (out.decision, written)
        assert best <= 0.5, (out.decision, best)
        unsure = max(unsure, best)
    return Agreement(len(frames), same, unsure, likelihood, hidden)


def measure(ways: dict[str, Callable[[Asked], Any]], frames: Sequence[Asked], repeats: int) -> dict[str, np.ndarray]:
    """Wall time and CPU time, ms (repeats, 2), of each way; they take turns, the first two turns are not counted."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats + 2):
        asked = frames[turn % len(frames)]
        for name, call in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call(asked)
            spent[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return {name: np.array(values[2:]) for name, values in spent.items()}


def shares(vlm: DecisionModel, frames: Sequence[Asked], repeats: int) -> dict[str, float]:
    """Share of each of PARTS in the CPU time of decide(); together 1."""
    spent: defaultdict[str, float] = defaultdict(float)

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = call(*args, **kwargs)
            spent[part] += time.process_time() - start
            return result

        return run

    inner = vlm.model.model
    owners = ((vlm, "_encode"), (inner.visual, "forward"), (inner.language_model, "forward"))
    with ExitStack() as stack:
        for part, (owner, name) in zip(PARTS, owners, strict=False):
            stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        start = time.process_time()
        for turn in range(repeats):
            asked = frames[turn % len(frames)]
            vlm.decide(asked.image, asked.navigation, asked.speed_mps)
        whole = time.process_time() - start
    spent["rest"] = whole - sum(spent.values())
    return {part: spent[part] / whole for part in PARTS}


def main(args: Args) -> float:
    """Returns CPU time of generate() / CPU time of decide()."""
    torch.set_num_threads(args.threads)
    vlm = DecisionModel.from_pretrained(args.model, args.device)
    frames = drive(args.frames, vlm.parts.frame_lag_s)
    longest = max(len(ids) for ids in vlm.parts.tokenizer(list(ANSWERS)).input_ids)
    ways: dict[str, Callable[[Asked], Any]] = {
        "decide(): 20 probabilities and hidden states": lambda a: vlm.decide(a.image, a.navigation, a.speed_mps),
        "generate(), bound to the 20 answers": lambda a: constrained_greedy(vlm, a),
        f"generate(), free, {longest} tokens": lambda a: vlm.explain(a.image, a.navigation, a.speed_mps, longest),
    }
    agreement = compare(vlm, frames)
    times = measure(ways, frames, args.repeats)
    for name, values in times.items():
        (p50, p95), cpu = np.percentile(values[:, 0], [50, 95]), values[:, 1]
        print(f"{name:46} p50 {p50:6.1f} ms, p95 {p95:6.1f} ms; CPU time p50 {np.median(cpu):6.1f} ms, "
              f"least {cpu.min():6.1f} ms = {1e3 / cpu.min():.0f} Hz of one core")  # fmt: skip
    text = page(agreement, times, shares(vlm, frames, args.repeats), args)
    print(text)
    if args.out is not None:
        args.out.write_text(text)
    decide, bound, _ = (np.median(values[:, 1]) for values in times.values())
    return float(bound / decide)


def page(agreement: Agreement, times: dict[str, np.ndarray], parts: dict[str, float], args: Args) -> str:
    """What does not depend on the machine, or hardly, as Markdown."""
    ours = np.median(next(iter(times.values()))[:, 1])
    exceptions = (
        f"On the others greedy decoding writes the less probable answer, and the most probable one has a "
        f"probability of {agreement.unsure:.2f} at most. "
        if agreement.same < agreement.frames
        else ""
    )
    lines = [
        "# The VLM: one pass beside generate()",
        "",
        f"`python -m benchmarks.vlm --out docs/benchmarks/vlm.md`: {args.model}, {args.threads} thread, {args.device}, "
        f"320x180 frames of {len(FAMILIES)} families of clips. Ratios of CPU time, medians of {args.repeats}; the "
        "command prints milliseconds, too.",
        "",
        f"**The same decision on {agreement.same} of {agreement.frames} frames.** {exceptions}The likelihood that "
        f"generate() itself gives its answer differs by {agreement.log_likelihood_error:.0e} (in the logarithm) at "
        f"most, the hidden states differ by {agreement.hidden_error:.0e} of the largest one.",
        "",
        "| | time, decide() = 1 |",
        "|---|---:|",
        *(f"| {name} | {np.median(values[:, 1]) / ours:.2f} |" for name, values in times.items()),
        "",
        "| part of decide() | share |",
        "|---|---:|",
        *(f"| {part} | {share:.0%} |" for part, share in parts.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Args))
