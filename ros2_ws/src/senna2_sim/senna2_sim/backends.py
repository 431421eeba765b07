"""Which backend draws: the CPU, or gsplat on a GPU. One choice for a whole process, made before scenes are built."""

import importlib.util
from collections.abc import Callable
from typing import Literal

Backend = Literal["cpu", "gsplat"]
NOT_INSTALLED = "gsplat is not installed"
INSTALL = 'python -m pip install -e "ros2_ws/src/senna2_sim[gsplat]"'

_chosen: Backend = "cpu"


def chosen() -> Backend:
    """What `render.pack` prepares for when it is not told."""
    return _chosen


def choose(device: str, say: Callable[[str], object] = print) -> str:
    """Draw on this device from now on; returns a line for the log that says on which, and why.

    Args:
        device: "cpu"; "cuda" or "auto": gsplat where it works, else the CPU.
        say: gets a line before gsplat is tried, which may take minutes.
    Raises:
        ValueError: another device.
    """
    global _chosen
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f'device: got "{device}", wanted auto, cpu or cuda')
    if device != "cpu" and installed():
        say("tries gsplat, which compiles itself at its first use, for minutes")
    missing = "as told" if device == "cpu" else why_not_gsplat()
    _chosen = "cpu" if missing else "gsplat"
    hint = f"; to install it: {INSTALL}" if device == "cuda" and missing == NOT_INSTALLED else ""
    return f"renders on the CPU: {missing}{hint}" if missing else "renders with gsplat on the GPU"


def installed() -> bool:
    """Whether there is a gsplat, working or not."""
    return importlib.util.find_spec("gsplat") is not None


def why_not_gsplat() -> str:
    """What keeps gsplat from drawing here; empty when it draws. Its first call compiles its kernels, for minutes."""
    if not installed():
        return NOT_INSTALLED
    import torch

    if not torch.cuda.is_available():
        return "torch sees no GPU"
    from senna2_sim import rasterize_gsplat

    try:
        rasterize_gsplat.try_out()
    except Exception as error:  # no nvcc, another architecture, another gsplat
        return f"gsplat does not work ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return ""
