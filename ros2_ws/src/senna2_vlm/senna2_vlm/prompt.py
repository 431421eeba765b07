"""What the VLM is asked and how it answers: the only place; the node and the training use the same words.

Chat format of the Qwen2.5-VL family, written out: what its chat template renders for one system and one user turn.
"""

from senna2_core.actions import ALL_DECISIONS, Decision, DirectionAction, SpeedAction, words
from senna2_core.objects import Navigation, SignalKind

IMAGE_TOKEN = "<|image_pad|>"  # in the prompt as often as the image has tokens
END_TOKEN = "<|im_end|>"
SYSTEM = (
    f"You drive. Answer with a speed ({', '.join(map(words, SpeedAction))}) "
    f"and a direction ({', '.join(map(words, DirectionAction))})."
)
ANSWERS: tuple[str, ...] = tuple(decision.text for decision in ALL_DECISIONS)  # in index order
VERBS = ("stands", "brakes", "is slower", "is faster", "drives", "crosses")  # what the one ahead does

SIGNALS = {  # what it is, what it says or does, and the word for an image token that shows it
    SignalKind.RED: ("light", "is red", "red"),
    SignalKind.YELLOW: ("light", "is yellow", "yellow"),
    SignalKind.GREEN: ("light", "is green", "green"),
    SignalKind.PADDLE_STOP: ("paddle", "says stop", "stop"),
    SignalKind.PADDLE_GO: ("paddle", "says go", "go"),
    SignalKind.STOP: ("sign", "says stop", "stop"),
    SignalKind.GIVE_WAY: ("sign", "says give way", "sign"),
    SignalKind.LIMIT: ("sign", "limits the speed", "sign"),
    SignalKind.WORKS: ("sign", "warns of works", "sign"),
    SignalKind.LEFT_LANE_CLOSED: ("sign", "closes the left lane", "sign"),
    SignalKind.RIGHT_LANE_CLOSED: ("sign", "closes the right lane", "sign"),
    SignalKind.DETOUR_LEFT: ("sign", "leads left", "sign"),
    SignalKind.DETOUR_RIGHT: ("sign", "leads right", "sign"),
    SignalKind.ROUNDABOUT: ("sign", "shows a roundabout", "sign"),
}


def question(navigation: Navigation, speed_mps: float) -> str:
    """The user's turn: the navigation in words, the speed limit, the own speed and the difference, all in km/h."""
    route = navigation.text.strip() or words(navigation.command)
    limit, speed = (round(3.6 * v) for v in (navigation.speed_limit_mps, max(speed_mps, 0.0)))
    difference = f"{limit - speed} below" if speed <= limit else f"{speed - limit} above"
    return f"Navigation: {route}. Speed limit {limit} km/h. Own speed {speed} km/h, {difference}."


def prompt(navigation: Navigation, speed_mps: float, image_tokens: int) -> str:
    """Everything up to the first token of the answer, with `image_tokens` placeholders for the front frame."""
    return (
        f"<|im_start|>system\n{SYSTEM}{END_TOKEN}\n"
        f"<|im_start|>user\n<|vision_start|>{IMAGE_TOKEN * image_tokens}<|vision_end|>"
        f"{question(navigation, speed_mps)}{END_TOKEN}\n<|im_start|>assistant\n"
    )


def reason(road_user: str = "", gap_m: float = 0.0, verb: str = "") -> str:
    """Why: who is next ahead, how far, and what it does (one of VERBS); without a road user, that the road is clear."""
    if not road_user:
        return "the road is clear."
    return f"the {road_user} {_metres(gap_m)} m ahead {verb}."


def signal(kind: SignalKind, gap_m: float) -> str:
    """Why: which signal binds next, how far ahead, and what it says."""
    what, says, _ = SIGNALS[kind]
    return f"the {what} {_metres(gap_m)} m ahead {says}."


def _metres(gap_m: float) -> int:
    step = 2 if gap_m < 20 else 5 if gap_m < 40 else 10
    return step * round(gap_m / step)


def sight(gap_m: float, what: str = "", closing: bool = False) -> str:
    """What an image token shows, in a word: what is nearest, if it has a name, else how far it is, in steps of 5 m: a
    digit, or a letter where the gap is closing."""
    if gap_m == float("inf"):
        return "clear"
    return what or ("abcdefghij" if closing else "0123456789")[min(int(gap_m / 5), 9)]


def answer(decision: Decision, why: str = "") -> str:
    """A whole answer, as trained: the decision first, then, if any, the reason. Decoding stops at the decision."""
    return f"{decision.text}. {why}{END_TOKEN}" if why else f"{decision.text}.{END_TOKEN}"
