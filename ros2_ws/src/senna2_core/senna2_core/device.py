"""Which device to compute on."""


def pick_device(name: str) -> str:
    """ "auto" -> "cuda" when a GPU works, else "cpu"; other names are checked.

    Raises:
        ValueError: the device is not there.
    """
    import torch

    works = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if works else "cpu"
    if name.startswith("cuda") and not works:
        raise ValueError(f'device: got "{name}", but torch sees no GPU; choose auto or cpu')
    if name != "cpu" and not name.startswith("cuda"):
        raise ValueError(f'device: got "{name}", wanted auto, cpu or cuda')
    return name
