"""A clip as a Gaussian scene that can be looked at: static world, one rigid cloud per agent, lamps, sky."""

import zlib
from dataclasses import dataclass, field

import numpy as np
import shapely

from senna2_core.objects import Category
from senna2_sim.appearance import palette
from senna2_sim.appearance.actors import draw_actor, draw_indicators
from senna2_sim.appearance.ground import KERB_M, SIDEWALK_M, draw_ground, site
from senna2_sim.appearance.roadside import draw_lamp, draw_roadside, draw_signal
from senna2_sim.appearance.signs import draw_paddle, draw_paddle_face, draw_sign
from senna2_sim.appearance.sketch import Sketch
from senna2_sim.captured import CapturedViews, Ground
from senna2_sim.render import Frame, PackedGaussians, pack, render, to_uint8
from senna2_sim.rig import Rig
from senna2_sim.world.types import Clip, LightColour

NEAR_M, MARGIN = 0.4, 0.3  # what `render` leaves out: nothing real comes nearer, nothing smears across the image
COLOURS: tuple[LightColour, ...] = ("red", "yellow", "green")


@dataclass(frozen=True)
class Scene:
    """What `render` needs. Groups: 0 static, then agents, then their lit brake lamps, then 3 lamps per light, then the
    left and right indicators of those who use them.

    What has a default, but for these, is for scenes from outside, see splat_scene.py.
    """

    packed: PackedGaussians
    sky: np.ndarray  # octahedral map, (size, size, 3) float32
    agents: int
    lights: int
    indicating: tuple[int, ...] = ()  # indices of the agents with indicators
    pavement: shapely.Geometry | None = None  # lies KERB_M higher than the roadway
    on_foot: tuple[int, ...] = ()  # indices of the agents who stand on it where it is
    static_pose: np.ndarray = field(default_factory=lambda: np.eye(4))  # map from group 0, rigid, (4, 4)
    ground: Ground | None = None  # flat, z = 0, when None
    views: CapturedViews | None = None  # what the Gaussians were fitted to, if that is known
    file: str = ""  # where the Gaussians come from
    near_m: float = NEAR_M
    margin: float = MARGIN

    def camera_poses(self, rig: Rig, ego_pose: np.ndarray) -> np.ndarray:
        """Map from camera, OpenCV axes, (C, 4, 4), for an ego at x m, y m, yaw rad (3,)."""
        map_from_base = _matrices(np.asarray(ego_pose, dtype=float)[None])[0]
        if self.ground is not None:
            map_from_base = self.ground.pose(*ego_pose)
        return map_from_base @ np.stack([camera.base_from_camera for camera in rig.cameras])

    def far_cameras(self, rig: Rig, ego_pose: np.ndarray) -> tuple[str, ...]:
        """Names of the cameras that are far from all captured views; none when these are not known."""
        if self.views is None:
            return ()
        far = self.views.far(self.camera_poses(rig, ego_pose))
        return tuple(camera.name for camera, is_far in zip(rig.cameras, far, strict=True) if is_far)

    def frames(
        self,
        rig: Rig,
        ego_pose: np.ndarray,
        agent_poses: np.ndarray,
        *,
        agent_brake: np.ndarray | None = None,
        agent_indicator: np.ndarray | None = None,
        light_colours: tuple[LightColour, ...] = (),
        visible: np.ndarray | None = None,
    ) -> dict[str, Frame]:
        """Float colours, depth and alpha of every camera; arguments as in `render`."""
        agent_poses = np.asarray(agent_poses, dtype=float).reshape(-1, 3)
        shown = np.ones(self.agents, bool) if visible is None else np.asarray(visible, bool)
        brake = np.zeros(self.agents, bool) if agent_brake is None else np.asarray(agent_brake, bool)
        blink = np.zeros(self.agents, int) if agent_indicator is None else np.asarray(agent_indicator, int)
        given = (("agent_poses", agent_poses), ("visible", shown), ("agent_brake", brake), ("agent_indicator", blink))
        for name, got in given:
            if len(got) != self.agents:
                raise ValueError(f"scene: {name} has {len(got)} rows, the clip has {self.agents} agents")
        if light_colours and len(light_colours) != self.lights:
            raise ValueError(f"scene: {len(light_colours)} light colours, the clip has {self.lights} lights")
        lit = [colour == given for given in light_colours or [None] * self.lights for colour in COLOURS]
        who = list(self.indicating)
        blinks = (shown[who, None] & (blink[who, None] == [1, -1])).ravel()
        enabled = np.concatenate([[True], shown, shown & brake, np.array(lit, dtype=bool), blinks])
        poses = np.broadcast_to(np.eye(4), (len(enabled), 4, 4)).copy()
        poses[0] = self.static_pose
        poses[1 : 1 + 2 * self.agents] = np.tile(_matrices(agent_poses), (2, 1, 1))
        poses[len(poses) - len(blinks) :] = np.repeat(_matrices(agent_poses[who]), 2, axis=0)
        if walkers := list(self.on_foot):
            poses[1 + np.array(walkers), 2, 3] = KERB_M * shapely.contains_xy(self.pavement, agent_poses[walkers, :2])
        cameras = rig.cameras
        viewmats = np.linalg.inv(self.camera_poses(rig, ego_pose))
        pictures = render(
            self.packed,
            viewmats,
            np.stack([camera.intrinsics for camera in cameras]),
            [(camera.width, camera.height) for camera in cameras],
            group_poses=poses,
            enabled=enabled,
            sky=self.sky,
            near_m=self.near_m,
            margin=self.margin,
        )
        return {camera.name: picture for camera, picture in zip(cameras, pictures, strict=True)}

    def render(
        self,
        rig: Rig,
        ego_pose: np.ndarray,
        agent_poses: np.ndarray,
        *,
        agent_brake: np.ndarray | None = None,
        agent_indicator: np.ndarray | None = None,
        light_colours: tuple[LightColour, ...] = (),
        visible: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """What every camera of the ego sees; the ego's own body is not drawn.

        Args:
            rig: the cameras.
            ego_pose: rear axle x m, y m, yaw rad in map, (3,).
            agent_poses: box centres x m, y m, yaw rad in map, in the order of clip.agents, (A, 3).
            agent_brake: whose brake lamps shine, (A,) bool; none when None.
            agent_indicator: whose indicators shine, (A,) 1 left, -1 right, 0 none; none when None.
            light_colours: one per traffic light of the road map, in its order; all dark when empty.
            visible: who is there, (A,) bool; all when None.
        Returns:
            images by camera name, (H, W, 3) uint8 RGB.
        Raises:
            ValueError: lengths that do not fit the clip.
        """
        pictures = self.frames(
            rig, ego_pose, agent_poses, agent_brake=agent_brake, agent_indicator=agent_indicator,
            light_colours=light_colours, visible=visible,
        )  # fmt: skip
        return {name: to_uint8(picture.rgb) for name, picture in pictures.items()}


def build_scene(clip: Clip) -> Scene:
    """The scene of a clip: a pure function of its contents, with looks drawn from (clip.family, clip.seed)."""
    streams = np.random.SeedSequence([zlib.crc32(clip.family.encode()), clip.seed]).spawn(4)
    general, ground, roadside, actors = (np.random.default_rng(stream) for stream in streams)
    day = palette.daylight(clip.daylight, general.uniform(-np.pi, np.pi))
    sky = palette.sky_map(day, general)

    place = site(clip.road, clip.route)
    static = Sketch(day.light, ground)
    draw_ground(static, clip.road, place, ground)
    draw_roadside(static, place, (*clip.road.lights, *clip.road.signs), day, roadside)
    for light in clip.road.lights:
        (draw_paddle if light.look == "paddle" else draw_signal)(static, light)
    for sign in clip.road.signs:
        draw_sign(static, sign)
    bodies, brakes = [], []
    for spec in clip.agents:
        body, lamps = draw_actor(spec, day.light, day.headlights, actors)
        bodies.append(body)
        brakes.append(lamps)
    lit = []
    for light in clip.road.lights:
        for colour in COLOURS:
            sketch = Sketch(day.light, general)
            (draw_paddle_face if light.look == "paddle" else draw_lamp)(sketch, light, colour)
            lit.append(sketch.cloud())
    who = tuple(k for k, spec in enumerate(clip.agents) if {"indicate_s", "indicates"} & set(spec.params))
    blinkers = [cloud for k in who for cloud in draw_indicators(clip.agents[k], day.light)]
    packed = pack([static.cloud(), *bodies, *brakes, *lit, *blinkers])
    pavement = place.lanes.buffer(0.4 + SIDEWALK_M).difference(place.roadway)
    shapely.prepare(pavement)
    on_foot = tuple(i for i, spec in enumerate(clip.agents) if spec.category == Category.PEDESTRIAN)
    return Scene(packed, sky, len(clip.agents), len(clip.road.lights), who, pavement, on_foot)


def _matrices(poses: np.ndarray) -> np.ndarray:
    """Homogeneous matrices (N, 4, 4) of planar poses (N, 3)."""
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    matrices = np.broadcast_to(np.eye(4), (len(poses), 4, 4)).copy()
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1] = cos, -sin, sin, cos
    matrices[:, :2, 3] = poses[:, :2]
    return matrices
