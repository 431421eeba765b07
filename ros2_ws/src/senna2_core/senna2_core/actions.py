"""Decisions: what the VLM says and what a trajectory shows. Source: Senna-2 (arXiv:2603.11219) 3.1 and eq. 18."""

from dataclasses import dataclass
from enum import IntEnum

UNKNOWN = -1  # speed code of a trajectory that shows no clear action; ignored in every comparison


class SpeedAction(IntEnum):
    """What the car does along its path."""

    ACCELERATE = 0
    DECELERATE = 1
    KEEP = 2
    STOP = 3


class DirectionAction(IntEnum):
    """What the car does across its path."""

    STRAIGHT = 0
    TURN_LEFT = 1
    TURN_RIGHT = 2
    CHANGE_LANE_LEFT = 3
    CHANGE_LANE_RIGHT = 4


class PathClass(IntEnum):
    """The coarse direction that a short trajectory can show."""

    LEFT = 0
    STRAIGHT = 1
    RIGHT = 2


# Path class of each DirectionAction, by code (Senna-2 eq. 18).
PATH_OF_DIRECTION = (PathClass.STRAIGHT, PathClass.LEFT, PathClass.RIGHT, PathClass.LEFT, PathClass.RIGHT)


def direction_of(path: PathClass, own: DirectionAction, command: DirectionAction) -> DirectionAction:
    """The direction action that a trajectory of this path class shows (Senna-2 3.2.3 needs one for L_high; the paper
    does not say which): the VLM's or driver's own when it belongs to the class, else the navigation command's, else
    straight or the turn."""
    turn = (DirectionAction.TURN_LEFT, DirectionAction.STRAIGHT, DirectionAction.TURN_RIGHT)[path]
    return next(action for action in (own, command, turn) if PATH_OF_DIRECTION[action] == path)


def words(action: IntEnum) -> str:
    """The action as text, e.g. "turn left"."""
    return action.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Decision:
    """A speed action with a direction action."""

    speed: SpeedAction
    direction: DirectionAction

    def __post_init__(self) -> None:
        object.__setattr__(self, "speed", SpeedAction(self.speed))
        object.__setattr__(self, "direction", DirectionAction(self.direction))

    @property
    def path(self) -> PathClass:
        """The path class that a trajectory shows when it does this."""
        return PATH_OF_DIRECTION[self.direction]

    @property
    def index(self) -> int:
        """0..19: 5 * speed + direction."""
        return len(DirectionAction) * self.speed + self.direction

    @property
    def text(self) -> str:
        """As the VLM writes it, e.g. "decelerate, turn left"."""
        return f"{words(self.speed)}, {words(self.direction)}"

    @classmethod
    def from_index(cls, index: int) -> "Decision":
        """Inverse of `index`; ValueError outside 0..19."""
        if not 0 <= index < len(SpeedAction) * len(DirectionAction):
            raise ValueError(f"decision index: got {index}, wanted 0..19 (5 * speed action + direction action)")
        speed, direction = divmod(int(index), len(DirectionAction))
        return cls(SpeedAction(speed), DirectionAction(direction))

    @classmethod
    def from_text(cls, text: str) -> "Decision":
        """Inverse of `text`; case and outer blanks do not matter. ValueError for anything else."""
        try:
            return _BY_TEXT[text.strip().lower()]
        except KeyError:
            raise ValueError(
                f'decision text: got "{text}", wanted "SPEED, DIRECTION" with a speed of '
                f"{[words(a) for a in SpeedAction]} and a direction of {[words(a) for a in DirectionAction]}"
            ) from None


ALL_DECISIONS: tuple[Decision, ...] = tuple(Decision(s, d) for s in SpeedAction for d in DirectionAction)
_BY_TEXT = {decision.text: decision for decision in ALL_DECISIONS}
