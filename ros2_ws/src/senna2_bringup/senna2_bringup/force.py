"""Drive by decisions: what a person presses or writes is what the VLM decides.

    ROS_DOMAIN_ID=7 make sim CLIP=curve MODE=realtime          # in one terminal
    ROS_DOMAIN_ID=7 python -m senna2_bringup.force             # in another

    up, w     accelerate       left, a    turn left            r   let the VLM decide again
    down, s   decelerate       right, d   turn right           Ctrl-C or Ctrl-D   end, and let the VLM decide
    space     keep             q          change lane left
    x         stop             e          change lane right    c, or the same key again: straight

Where the input is no terminal, each line is a decision ("accelerate, straight"), or empty to let the VLM decide. At its
end the last decision runs out by itself (parameter forced_hold_s of the vlm node).

Exit codes: 0 asked to end, or the drive ended; 1 nobody listens, or a line was no decision.
"""

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import rclpy
import tyro
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.utilities import remove_ros_args
from senna2_msgs.msg import Consistency
from std_msgs.msg import String

from senna2_bringup.monitor import Screen
from senna2_core.actions import UNKNOWN, Decision, DirectionAction, PathClass, SpeedAction, words
from senna2_core.messages import read_consistency
from senna2_vlm.forced import forced_from_text

REPEAT_S = 0.5  # how often a decision is said again, wall time; the VLM forgets one that is not
GONE_S = 2.0  # without a listener for this long, the drive is over
LISTENING_IN = "recorder"  # hears the topic, decides nothing
UP, DOWN, RIGHT, LEFT, END = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x04"
KEYS: dict[str, SpeedAction | DirectionAction | None] = {
    **dict.fromkeys((UP, "w"), SpeedAction.ACCELERATE),
    **dict.fromkeys((DOWN, "s"), SpeedAction.DECELERATE),
    " ": SpeedAction.KEEP,
    "x": SpeedAction.STOP,
    "c": DirectionAction.STRAIGHT,
    **dict.fromkeys((LEFT, "a"), DirectionAction.TURN_LEFT),
    **dict.fromkeys((RIGHT, "d"), DirectionAction.TURN_RIGHT),
    "q": DirectionAction.CHANGE_LANE_LEFT,
    "e": DirectionAction.CHANGE_LANE_RIGHT,
    "r": None,
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Drive by decisions: keys in a terminal, lines of text elsewhere (docs/decisions.md)."""

    wait_s: float = 30.0
    """How long to wait for somebody who can be forced."""


def press(key: str, held: Decision | None) -> Decision | None:
    """What is forced after a key, given what was; None: nothing. Other keys change nothing."""
    match KEYS.get(key, key):
        case SpeedAction() as speed:
            return Decision(speed, held.direction if held is not None else DirectionAction.STRAIGHT)
        case DirectionAction() as direction:
            again = held is not None and held.direction == direction
            speed = held.speed if held is not None else SpeedAction.KEEP
            return Decision(speed, DirectionAction.STRAIGHT if again else direction)
        case None:
            return None
    return held


def keys_in(data: str) -> list[str]:
    """The keys that a terminal's bytes mean; both ways of writing an arrow become UP, DOWN, RIGHT, LEFT."""
    return [key.replace("\x1bO", "\x1b[") for key in re.findall(r"\x1b[\[O][A-D]|.", data, re.DOTALL)]


class Operator(Node):
    """Says again and again what is forced, and hears what the plan makes of it."""

    def __init__(self) -> None:
        super().__init__("operator")
        self.held: Decision | None = None
        self.plan = ""
        self._heard_s = -1.0
        self._publisher = self.create_publisher(String, "vlm/forced_decision", 10)
        self.create_subscription(Consistency, "planner/consistency", self._on_consistency, QoSProfile(depth=1))
        self.create_timer(REPEAT_S, self._repeat, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def force(self, decision: Decision | None) -> None:
        """From now on this; None: the VLM decides."""
        self.held = decision
        self._publisher.publish(String(data=decision.text if decision is not None else ""))

    def is_heard(self) -> bool:
        """Whether somebody who decides listens, or did until a moment ago."""
        infos = self.get_subscriptions_info_by_topic(self._publisher.topic_name)
        if any(info.node_name != LISTENING_IN for info in infos):
            self._heard_s = time.monotonic()
        return self._heard_s >= 0 and time.monotonic() - self._heard_s < GONE_S

    def flush(self) -> None:
        """Until everybody has what was said, at most one second."""
        self._publisher.wait_for_all_acked(Duration(seconds=1.0))

    def line(self) -> str:
        """What is forced and what the plan does, in words."""
        return f"{f'forced: {self.held.text}' if self.held is not None else 'the VLM decides'}{self.plan}"

    def _repeat(self) -> None:
        if self.held is not None:
            self.force(self.held)

    def _on_consistency(self, msg: Any) -> None:
        check = read_consistency(msg)
        speed = "unclear" if check.speed == UNKNOWN else words(SpeedAction(check.speed))
        verdict = "agrees" if check.agree else "disagrees"
        self.plan = f"   decided: {check.decision.text}   plan: {speed}, {words(PathClass(check.path))} ({verdict})"


def main(args: Args | None = None) -> int:
    """The exit code for `sys.exit`."""
    args = args or tyro.cli(Args, args=remove_ros_args(sys.argv)[1:])
    rclpy.init(args=sys.argv, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    operator, executor, screen = Operator(), SingleThreadedExecutor(), Screen()
    executor.add_node(operator)
    try:
        give_up_s = time.monotonic() + args.wait_s
        while not operator.is_heard():
            executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > give_up_s:
                domain = os.environ.get("ROS_DOMAIN_ID", "0")
                print(f"error: nobody listens to vlm/forced_decision in ROS domain {domain}: start make sim, and this, "
                      "with the same ROS_DOMAIN_ID", file=sys.stderr)  # fmt: skip
                return 1
        return _steer(operator, executor, screen)
    except KeyboardInterrupt:
        operator.force(None)
        return 0
    finally:
        screen.done()
        operator.flush()
        operator.destroy_node()
        rclpy.try_shutdown()


def _steer(operator: Operator, executor: SingleThreadedExecutor, screen: Screen) -> int:
    """Keys or lines until they end, or nobody listens any more."""
    refused, rest, stdin = False, "", sys.stdin.fileno()
    with _keys_at_once(stdin) as is_terminal:
        screen.say((__doc__ or "").split("\n\n")[2] if is_terminal else operator.line())
        while operator.is_heard():
            executor.spin_once(timeout_sec=0.05)
            screen.progress(operator.line())
            if not select.select([stdin], [], [], 0)[0]:
                continue
            data = os.read(stdin, 4096).decode(errors="replace")
            if is_terminal:
                keys = keys_in(data)
                for key in keys:
                    operator.force(press(key, operator.held))
                if END in keys or not data:
                    operator.force(None)
                    return 0
                continue
            *lines, rest = (rest + data).split("\n") if data else (rest, "")
            for line in lines:
                refused |= not _take(operator, line, screen, at_end=not data)
            if not data:
                return int(refused)
    screen.say("the drive is over")
    return int(refused)


def _take(operator: Operator, line: str, screen: Screen, at_end: bool) -> bool:
    """One line of text; False: no decision. What is left at the end of the input may be nothing at all."""
    if at_end and not line:
        return True
    try:
        operator.force(forced_from_text(line, "line"))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return False
    screen.say(operator.line())
    return True


@contextmanager
def _keys_at_once(stdin: int) -> Iterator[bool]:
    """A terminal hands over every key at once and shows none; yields whether it is one."""
    if not os.isatty(stdin):
        yield False
        return
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin)
    try:
        yield True
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


if __name__ == "__main__":
    sys.exit(main())
