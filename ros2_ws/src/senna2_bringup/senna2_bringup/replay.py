"""Play a recorded bag through the real nodes and score what they publish.

    python -m senna2_bringup.replay bags/curve-0900
    python -m senna2_bringup.replay bags/curve-0900 --mode realtime --rate 2
    python -m senna2_bringup.replay bags/curve-0900 --no-player    # then `ros2 bag play` in another terminal

Exit codes: 0 the bag was played to its end; 2 bad input, nothing was started; 130 Ctrl-C; else the code of the node
that died, or 1 for one that hung. What was heard until then is scored all the same.
"""

import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from senna2_msgs.msg import Trajectory

from senna2_bringup.graph import BadInput, check_device, check_models, new_folder, run_graph
from senna2_bringup.manifest import Process, replay
from senna2_bringup.monitor import Monitor
from senna2_bringup.replay_bag import Label, ReplayBag, cameras_of, check_cameras, input_topics, load_replay_bag
from senna2_bringup.replay_result import write_json, write_result
from senna2_bringup.supervisor import Culprit
from senna2_core.messages import stamp_ns
from senna2_core.ros_node import output_qos

START_TIMEOUT_S = 120.0  # until the first message; the player itself says earlier who is late
DEFAULT_DOMAIN = "0"  # of every ROS 2 program that is told nothing


@dataclass(frozen=True, kw_only=True)
class Args:
    """Play a recorded bag through the real nodes and score what they publish."""

    bag: tyro.conf.Positional[Path]
    """Bag folder."""
    mode: Literal["lockstep", "realtime"] | None = None
    """lockstep: each step waits for its plan, deterministic, as fast as the machine; realtime: at the pace of the
    recording, latencies count, frames may be dropped. Default: lockstep, or realtime where somebody else plays."""
    rate: float = 1.0
    """Realtime: times the pace of the recording."""
    player: bool = True
    """False: somebody else plays, e.g. `ros2 bag play`; only nodes and scorer are started."""
    label: Label = "auto"
    """What plans are judged by: plan (the recorded /planner/trajectory), odometry (what was driven), or auto: the plan
    where it is an expert's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks compute."""
    models: Path = Path("models/small-s1")
    """Folder with the checkpoints perception, vlm, adapter and planner."""
    out: Path | None = None
    """Folder of this run (default runs/<time>); must not exist."""
    report: bool = True
    """Write report.html."""
    step_timeout_s: float = 5.0
    """Lockstep: a plan that takes longer is an error; give more to very large models."""
    hang_timeout_s: float = 4.0
    """A node that says nothing for this long has hung; give more to very large models."""


class ReplayMonitor(Monitor):
    """Watches a replay: how far the bag is, how many plans there are."""

    def __init__(self, length_s: float):
        super().__init__()
        self._length_s, self._plans = length_s, 0
        self._node.create_subscription(Trajectory, "planner/trajectory", self._on_plan, output_qos())

    def line(self) -> str:
        """Progress in words."""
        if not self.facts:
            return "starting"
        pace = f"x{self.real_time_factor:.2f}" if math.isfinite(self.real_time_factor) else ""
        return f"{self.sim_time_s:5.1f} of {self._length_s:.1f} s  {pace}  {self._plans} plans  {self.decision}"

    def _on_odometry(self, msg: Any) -> None:
        self.now_ns, self.now_s = stamp_ns(msg.header), time.monotonic()
        if not self.facts:
            self.facts = {"playing": True}
            self.start_ns, self.started_s = self.now_ns, self.now_s

    def _on_truth(self, msg: Any) -> None:
        """Time comes from the odometry: a bag need not have truth."""

    def _on_plan(self, msg: Any) -> None:
        self._plans += 1


def main(args: Args, nodes: tuple[Process, ...] | None = None) -> int:
    """The exit code for `sys.exit`. nodes: the stack; None: the one of args.models."""
    mode: Literal["lockstep", "realtime"] = args.mode or ("lockstep" if args.player else "realtime")
    try:
        bag = _checked(args)
        run = new_folder(args.out)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    heard = run / "heard.jsonl"
    processes = replay(
        bag=args.bag,
        cameras=bag.cameras,
        heard=heard,
        models=args.models,
        device=args.device,
        mode=mode,
        player=args.player,
        rate=args.rate,
        step_timeout_s=args.step_timeout_s,
        nodes=nodes,
    )
    if not args.player:
        os.environ.setdefault("ROS_DOMAIN_ID", DEFAULT_DOMAIN)
        print(_how_to_play(bag, run))
    known: dict[str, Any] = {"outcome": "aborted", "mode": mode, "player": args.player, "models": str(args.models)}
    culprit = Culprit(name="replay", code=0, reason="finished")
    try:
        write_json(run, known)
        culprit = run_graph(
            processes,
            run,
            headline=f"{args.bag}  {len(bag.steps)} steps  {mode}",
            monitor=lambda: ReplayMonitor((bag.steps[-1] - bag.steps[0]) / 1e9),
            hang_timeout_s=args.hang_timeout_s,
            starter="player",
            start_timeout_s=START_TIMEOUT_S if args.player else math.inf,
        )
        if culprit.code:
            known["outcome"] = f"aborted: {culprit.reason}"
        else:
            del known["outcome"]
        if heard.is_file():
            print(write_result(bag, heard, known, args.report))
        else:
            write_json(run, known)
    except (ValueError, OSError) as error:
        print(f"error: {run}: {error}", file=sys.stderr)
        culprit = Culprit(name="replay", code=culprit.code or 1, reason=str(error))
    except KeyboardInterrupt:
        culprit = Culprit(name="user", code=130, reason="interrupted")
    if culprit.code:
        print(f"error: replay failed: {culprit.reason}; output of all nodes: {run / 'log.txt'}", file=sys.stderr)
    return culprit.code


def _checked(args: Args) -> ReplayBag:
    """The bag, if it can be replayed; BadInput before anything is started."""
    if args.rate <= 0:
        raise BadInput(f"--rate {args.rate}: wanted a number > 0")
    if args.rate != 1 and (args.mode != "realtime" or not args.player):
        raise BadInput(f"--rate {args.rate}: only our player in realtime has a rate; add --mode realtime")
    check_models(args.models)
    check_device(args.device)
    try:
        bag = load_replay_bag(args.bag, cameras_of(args.models), args.label)
        check_cameras(args.bag, args.models)
    except (ValueError, OSError) as error:
        raise BadInput(str(error)) from None
    return bag


def _how_to_play(bag: ReplayBag, run: Path) -> str:
    """The command for somebody else's player; writes the file that it names."""
    topics = input_topics(bag.cameras)
    qos = {"reliability": "reliable", "durability": "transient_local", "history": "keep_last", "depth": 50}
    file = run / "bag_play_qos.yaml"
    file.write_text("".join(f"{t}:\n" + "".join(f"  {k}: {v}\n" for k, v in qos.items()) for t in topics))
    return (
        'when the scorer says "ready", in another terminal:\n'
        f"  ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']} ros2 bag play {bag.path} --clock 100 "
        f"--qos-profile-overrides-path {file} --topics {' '.join(topics)}"
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
