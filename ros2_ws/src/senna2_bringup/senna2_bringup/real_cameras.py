"""Which processes let the graph see through real cameras instead of the simulator's."""

from collections.abc import Mapping
from pathlib import Path

from senna2_bringup.manifest import Process, on_real_time, stack
from senna2_sim.rig import check_rig, load_rig


def pairs(text: str, subject: str) -> dict[str, str]:
    """{camera: value} of "front=/dev/video0,left=left.mp4"; one value without a name is the front camera's.

    Raises:
        ValueError: a part without a name among several, or a name twice.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) == 1 and "=" not in parts[0]:
        return {"front": parts[0]}
    found = dict(part.split("=", 1) for part in parts if "=" in part)
    if len(found) < len(parts):
        raise ValueError(f'{subject}: got "{text}", wanted CAMERA=VALUE,CAMERA=VALUE with every camera once')
    return found


def real_cameras(
    sources: Mapping[str, str],
    *,
    rig: str = "small",
    calibrations: Mapping[str, str] | None = None,
    loop: bool = False,
    models: Path | None = None,
    device: str = "auto",
) -> tuple[Process, ...]:
    """One camera node per source, and the learned stack on real time if there are models.

    Args:
        sources: camera of the rig -> device, film or folder.
        calibrations: camera -> YAML of its lens; cameras without one are only resized.
        models: folder with the checkpoints; None starts the cameras alone.
    Raises:
        ValueError: the rig has no such camera, a calibration belongs to none, or the models were trained with others.
    """
    cameras, calibrations = {camera.name: camera for camera in load_rig(rig).cameras}, calibrations or {}
    for names, what in ((sources, "source"), (calibrations, "calibration")):
        if strange := sorted(names.keys() - (cameras if what == "source" else sources).keys()):
            raise ValueError(f"{what} of {', '.join(strange)}: rig {rig} has the cameras {', '.join(cameras)}")
    if not sources:
        raise ValueError(f"no source: name at least one of the cameras {', '.join(cameras)}")
    if models is not None:
        check_rig(load_rig(rig), models / "perception")
    nodes = []
    for name, source in sources.items():
        camera = cameras[name]
        (fx, _, cx), (_, fy, cy), _ = camera.intrinsics.tolist()
        parameters = {
            "source": source,
            "camera": name,
            "calibration": calibrations.get(name, ""),
            "width": camera.width,
            "height": camera.height,
            "pinhole_px": [fx, fy, cx, cy],
            "rate_hz": float(camera.rate_hz),
            "loop": loop,
        }
        process = Process(
            name=f"camera_{name}",
            package="senna2_perception",
            executable="camera_node",
            module="senna2_perception.camera_node",
            parameters=parameters,
            parameter_files=(),
            may_finish=True,
        )
        nodes.append(process)
    return (*nodes, *(on_real_time(process) for process in (stack(models, device) if models else ())))
