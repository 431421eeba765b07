"""Checkpoints: model.safetensors with config.json beside it. No pickle."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_checkpoint(
    folder: str | Path,
    state_dict: Mapping[str, "torch.Tensor"],
    *,
    module: str,
    stage: str,
    config: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Write a checkpoint; what stood there is replaced only after the new one lies whole on the disk.

    Args:
        folder: created when needed; other files in it stay.
        state_dict: tensors by name, any device; shared ones are stored twice.
        module: what the weights are of, e.g. "planner".
        stage: training stage that made them, e.g. "1b".
        config: JSON-ready, as from `senna2_core.config.to_dict`.
        provenance: JSON-ready: data, seeds, command, figures.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights, meta_file = (folder / f".{name}.{os.getpid()}.tmp" for name in (WEIGHTS, CONFIG))
    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in state_dict.items()}, weights)
        meta = {
            "module": module,
            "stage": stage,
            "config": config,
            "provenance": provenance,
            "sha256": _sha256(weights),
        }
        meta_file.write_text(json.dumps(meta, indent=2, allow_nan=False) + "\n")
        for file in (weights, meta_file):
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
        weights.replace(folder / WEIGHTS)
        meta_file.replace(folder / CONFIG)
    finally:
        weights.unlink(missing_ok=True)
        meta_file.unlink(missing_ok=True)


def load_checkpoint(
    folder: str | Path, *, module: str, stages: Iterable[str] | None = None
) -> tuple[dict[str, Any], dict[str, "torch.Tensor"], dict[str, Any]]:
    """Read a checkpoint and verify it.

    Args:
        folder: as given to `save_checkpoint`.
        module: the module that it must be of.
        stages: accepted stages; None accepts all.
    Returns:
        config, state_dict on the CPU, and meta: module, stage, provenance, sha256.
    Raises:
        ValueError: nothing there, unreadable, or wrong module, stage or hash.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: no {' and no '.join(missing)}; name a folder that a training stage wrote")
    try:
        meta = json.loads((folder / CONFIG).read_text())
        config, digest, got_module, got_stage = (meta[k] for k in ("config", "sha256", "module", "stage"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG}: not a checkpoint's ({error!r}); restore it or train again") from error
    if got_module != module:
        raise ValueError(f'{folder}: checkpoint is of module "{got_module}", wanted "{module}"; give another folder')
    if stages is not None and got_stage not in (wanted := tuple(stages)):
        raise ValueError(f'{folder}: stage is "{got_stage}", wanted one of {wanted}; run that training stage first')
    if (actual := _sha256(folder / WEIGHTS)) != digest:
        raise ValueError(
            f"{folder / WEIGHTS}: sha256 is {actual[:12]}..., {CONFIG} says {str(digest)[:12]}...: "
            "the two do not belong together; restore both or train again"
        )
    return (config, load_file(folder / WEIGHTS), {k: v for k, v in meta.items() if k != "config"})


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
