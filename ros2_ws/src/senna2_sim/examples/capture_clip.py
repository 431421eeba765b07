"""Photographs of a generated clip's empty street, with poses and points, as a vehicle would record them for a fit.

python ros2_ws/src/senna2_sim/examples/capture_clip.py empty_road-0003 captures/road
python -m senna2_sim.fit --captures captures/road --out fits/road --downscale 4 --steps 2000
make sim SCENE=fits/road/point_cloud.ply SCENE_CAPTURES=captures/road DRIVER=expert
"""

import json
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from senna2_sim.gaussians import SH_C0
from senna2_sim.rig import load_rig
from senna2_sim.scenarios import clip_named
from senna2_sim.scene import build_scene
from senna2_sim.world.world import World

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def main(
    clip: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    every_s: float = 0.2,
    rig: str = "small",
    points: int = 20_000,
    seed: int = 0,
) -> int:
    """Let the expert drive, and write a folder that `senna2_sim.fit` reads.

    Args:
        clip: FAMILY-SEED; its traffic is left out.
        out: new folder for images, points.npy and transforms.json.
        every_s: time between photographs.
        rig: cameras.
        points: as many of the scene's Gaussians, at random, as a laser scanner would find.
        seed: of their choice.
    """
    world, cameras = World(clip_named(clip)), load_rig(rig)
    scene = build_scene(world.clip)
    nobody = np.zeros(scene.agents, bool)
    (out / "images").mkdir(parents=True)
    frames = []
    while not world.done:
        if world.step_count % max(round(10 * every_s), 1) == 0:
            images = scene.render(cameras, world.ego.pose, world.agent_poses, visible=nobody)
            poses = scene.camera_poses(cameras, world.ego.pose)
            for camera, pose in zip(cameras.cameras, poses, strict=True):
                name = f"images/{camera.name}_{world.step_count:04d}.png"
                Image.fromarray(images[camera.name]).save(out / name)
                lens = dict(zip(("fl_x", "fl_y"), np.diag(camera.intrinsics)[:2].tolist(), strict=True))
                frames.append({"file_path": name, "transform_matrix": (pose @ OPENGL).tolist(), **lens})
        world.step(world.expert_plan)
    static = max(end for _, end, group in scene.packed.blocks if group == 0)
    chosen = np.random.default_rng(seed).permutation(static)[:points]
    colours = np.clip(scene.packed.sh[chosen, :3] * SH_C0 + 0.5, 0, 1)
    np.save(out / "points.npy", np.column_stack([scene.packed.geometry[chosen, :3], colours]))
    (out / "transforms.json").write_text(json.dumps({"ply_file_path": "points.npy", "frames": frames}, indent=1) + "\n")
    print(f"{out}: {len(frames)} photographs of {clip}")
    return 0


if __name__ == "__main__":
    tyro.cli(main)
