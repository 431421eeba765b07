"""Films of clips that went wrong: driven once more, the same way, with somebody watching."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from senna2_core.actions import PathClass
from senna2_core.consistency import consistent
from senna2_core.kinematics import kinematic_mapping
from senna2_core.messages import Consistency
from senna2_sim.film import FPS, Moment, compose, film, new_birdseye
from senna2_sim.rig import load_rig
from training.drives import Job, Step, drive_job

LAST_PICTURE_S = 1.0  # how long the end is shown


def film_path(out: Path, row: dict[str, Any]) -> Path:
    """Where the film of a row is; another drive of the clip gets another name."""
    return out / "videos" / f"{row['clip']}-{row['trajectory_sha256'][:8]}.mp4"


def film_clip(job: Job) -> bytes:
    """An MP4 film of a clip. ValueError: it did not go as its row says."""
    cameras, canvas = load_rig(job.setup.rig).cameras, new_birdseye()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "film.mp4"
        with film(out) as add:

            def watch(step: Step) -> None:
                picture = compose(moment(step, job.setup.driver), step.images, cameras, canvas)
                for _ in range(1 if step.trajectory is not None else round(LAST_PICTURE_S * FPS)):
                    add(picture)

            row = drive_job(job, watch)
        if row["trajectory_sha256"] != job.trajectory_sha256:
            raise ValueError(
                f"film of {job.clip.id}: it went another way than its row says (plans {row['trajectory_sha256'][:12]}, "
                f"row {str(job.trajectory_sha256)[:12]}): code or machine have changed; evaluate again with --restart"
            )
        return out.read_bytes()


def moment(step: Step, driver: str) -> Moment:
    """What the film tells about a step."""
    world, output, check = step.world, step.output, None
    if output is not None and output.condition is not None:
        speed, path = kinematic_mapping(np.asarray(output.trajectory))
        check = Consistency(
            stamp_ns=world.stamp_ns,
            decision=output.condition.decision,
            speed=int(speed),
            path=PathClass(int(path)),
            agree=bool(consistent(output.trajectory, output.condition.decision)),
            decision_age_s=(world.stamp_ns - output.condition.stamp_ns) / 1e9,
        )
    return Moment(
        clip=world.clip.id,
        driver=driver,
        time_s=world.time_s,
        ego=world.ego,
        map=world.map_elements(),
        agents=world.agents,
        ttc_s=world.ttc_s,
        collided=world.collided,
        at_fault=world.at_fault,
        plan=step.trajectory,
        navigation=world.navigation(),
        check=check,
        seen=None if output is None else output.perception.objects,
    )
