"""Which decision an operator forces on the VLM. No ROS."""

from senna2_core.actions import Decision


def forced_from_text(text: object, subject: str) -> Decision | None:
    """The decision that a text like "accelerate, straight" names; None for an empty one.

    Raises:
        ValueError: not a text, or not a decision; begins with the subject.
    """
    if not isinstance(text, str):
        raise ValueError(f'{subject}: got {text!r}, wanted a text such as "accelerate, straight", or "" for none')
    if not text.strip():
        return None
    try:
        return Decision.from_text(text)
    except ValueError as error:
        raise ValueError(f'{subject}: {error}; or "" for none') from None


class Force:
    """The newest text that came while the operator is there; without one, whatever the caller falls back to.

    Somebody who forces has to say so again within hold_s, s of wall time, else is taken for gone.
    """

    def __init__(self, hold_s: float):
        self._hold_s = hold_s
        self._decision: Decision | None = None
        self._until_s = 0.0

    def hear(self, text: str, now_s: float) -> None:
        """Take what came at now_s; an empty text lets go at once. ValueError: no decision; nothing changes."""
        self._decision = forced_from_text(text, "forced decision")
        self._until_s = now_s + self._hold_s

    def now(self, now_s: float, otherwise: Decision | None = None) -> Decision | None:
        """What is forced at now_s."""
        return self._decision if self._decision is not None and now_s < self._until_s else otherwise
