"""What a rendered clip must show: road under the wheels, nothing on it, and everybody where the world says."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import shapely

from senna2_core.objects import Category
from senna2_core.polyline import Polyline
from senna2_sim.appearance.ground import KERB_M
from senna2_sim.appearance.roadside import lamp_positions
from senna2_sim.rig import load_rig
from senna2_sim.scene import COLOURS, build_scene
from senna2_sim.world.road import junction, line, road_along, shifted
from senna2_sim.world.types import AgentSpec, Clip, RoadMap

RIG = load_rig("small")
SIZES = {
    Category.CAR: (4.5, 1.85, 1.5),
    Category.VAN: (5.4, 2.0, 2.2),
    Category.TRUCK: (8.5, 2.4, 3.1),
    Category.BUS: (11.5, 2.5, 3.1),
    Category.CYCLIST: (1.8, 0.6, 1.7),
    Category.PEDESTRIAN: (0.5, 0.6, 1.75),
    Category.OBSTACLE: (1.0, 1.0, 1.0),
}


def agent(category: Category) -> AgentSpec:
    length, width, height = SIZES[category]
    return AgentSpec(
        id=int(category), category=category, length_m=length, width_m=width, height_m=height,
        colour_rgb=(0.2, 0.4, 0.8), path=np.array([[0.0, 0], [1, 0]]), start_station_m=0.0, start_speed_mps=0.0,
    )  # fmt: skip


def clip_on(road: RoadMap, route: np.ndarray, seed: int = 0, daylight="day") -> Clip:
    return Clip(
        family="test", seed=seed, duration_s=20.0, road=road, route=route, route_lanes=(0,), start_station_m=0.0,
        start_speed_mps=0.0, speed_limit_mps=13.9, manoeuvres=(), agents=tuple(map(agent, Category)), daylight=daylight,
    )  # fmt: skip


@cache
def clip(kind: str) -> Clip:
    if kind == "junction":
        place = junction(lanes=(2, 1), skew_rad=0.15, light_cycle=(8.0, 8.0), arm_m=90.0)
        return clip_on(place.road, shifted(line(np.array([-80.0, 0, 0]), [(160, 0)]), -1.75))
    pieces = [(160.0, 0.0)] if kind == "straight" else [(40.0, 0.0), (20.0, 0.03), (60.0, 0.03), (40.0, 0.0)]
    middle = line(np.array([30.0, -20.0, 0.7]), pieces)
    return clip_on(road_along(middle, forward=2 if kind == "straight" else 1), shifted(middle, -1.75))


@cache
def scene(kind: str):
    return build_scene(clip(kind))


def look(kind: str, station_m: float = 40.0, **options):
    """Frames at a station of the route; agents far away unless `poses` says otherwise."""
    ego = Polyline(clip(kind).route).at(np.array(station_m))
    poses = options.pop("poses", np.zeros((len(Category), 3)))
    options.setdefault("visible", np.zeros(len(Category), bool))
    return scene(kind).frames(RIG, ego, poses, **options), ego


def ground_hits(camera, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's ray meets z = 0: points (H, W, 2) in map and optical depths (H, W), inf above the horizon."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    focal = camera.intrinsics[0, 0]
    rays = np.stack([(x - camera.width / 2) / focal, (y - camera.height / 2) / focal, np.ones_like(x)], axis=-1)
    rays = rays @ camera.base_from_camera[:3, :3].T
    depth = np.where(rays[..., 2] < -1e-6, -camera.base_from_camera[2, 3] / np.minimum(rays[..., 2], -1e-6), np.inf)
    local = camera.base_from_camera[:2, 3] + np.where(np.isinf(depth), 0, depth)[..., None] * rays[..., :2]
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    return local @ np.array([[cos, sin], [-sin, cos]]) + ego[:2], depth


@pytest.mark.parametrize("kind", ["straight", "curve", "junction"])
@pytest.mark.parametrize("station_m", [40.0, 72.0])
def test_the_roadway_is_closed_and_free(kind, station_m):
    frames, ego = look(kind, station_m)
    lanes = shapely.union_all(
        [shapely.LineString(x.centerline).buffer(x.width_m / 2) for x in clip(kind).road.lanes.values()]
    )
    lanes = lanes.buffer(-0.3)
    shapely.prepare(lanes)
    for camera in RIG.cameras:
        points, depth = ground_hits(camera, ego)
        on_road = shapely.contains_xy(lanes, points[..., 0], points[..., 1]) & (depth < 25)
        if on_road.sum() < 300:
            continue  # the camera looks over the kerb
        frame = frames[camera.name]
        assert frame.alpha[on_road].min() > 0.4, camera.name
        assert frame.alpha[on_road].mean() > 0.95, camera.name
        error = np.abs(frame.depth / depth - 1)[on_road]  # splats that lie flat are blended from the near side on
        assert np.median(error) < (0.1 if camera.name == "front" else 0.3), camera.name
        assert np.mean(error > 0.5) < 0.05, camera.name


@pytest.mark.parametrize("kind", ["straight", "curve", "junction"])
def test_nothing_solid_stands_on_the_lanes(kind):
    road = clip(kind).road
    geometry = scene(kind).packed.geometry
    static = geometry[: max(b[1] for b in scene(kind).packed.blocks if b[2] == 0)]
    solid = static[(static[:, 2] > 0.3) & (static[:, 2] < 4.0)]
    lanes = shapely.union_all([shapely.LineString(x.centerline).buffer(x.width_m / 2) for x in road.lanes.values()])
    poles = shapely.union_all([shapely.Point(light.position[:2]).buffer(1.0) for light in road.lights])
    assert len(solid) > 1000
    assert not shapely.contains_xy(lanes.difference(poles), solid[:, 0], solid[:, 1]).any()


@pytest.mark.parametrize("category", list(Category))
def test_an_agent_shows_exactly_where_its_box_is(category):
    index = int(category)
    visible = np.arange(len(Category)) == index
    camera = RIG["front"]
    for x, y, yaw in ((18.0, -2.0, 0.0), (25.0, 3.0, 2.0), (22.0, 0.0, np.pi)):
        without, ego = look("straight")
        cos, sin = np.cos(ego[2]), np.sin(ego[2])
        poses = np.zeros((len(Category), 3))
        poses[index] = [ego[0] + cos * x - sin * y, ego[1] + sin * x + cos * y, ego[2] + yaw]
        frames, _ = look("straight", poses=poses, visible=visible)
        changed = np.abs(frames["front"].rgb - without["front"].rgb).max(axis=-1) > 0.1
        rows, columns = np.nonzero(changed)
        length, width, height = SIZES[category]
        signs = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [0, 1])).reshape(3, -1).T * [length, width, height]
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        corners = np.column_stack([signs[:, :2] @ turn.T + [x, y], signs[:, 2]])
        pixels, _ = camera.project(corners)
        (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
        box = (right - left) * (bottom - top)
        inside = (columns > left - 4) & (columns < right + 4) & (rows > top - 4) & (rows < bottom + 5)
        assert inside.mean() > 0.95
        assert inside.sum() > 0.3 * box


def test_people_on_the_pavement_stand_as_high_above_it_as_above_the_road():
    visible = np.arange(len(Category)) == Category.PEDESTRIAN
    without, ego = look("straight")
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    short = []
    for y, ground_m in ((-4.0, 0.0), (-6.4, KERB_M)):  # the kerb is 5.3 m to the right
        poses = np.zeros((len(Category), 3))
        poses[Category.PEDESTRIAN] = [ego[0] + cos * 12 - sin * y, ego[1] + sin * 12 + cos * y, ego[2]]
        frames, _ = look("straight", poses=poses, visible=visible)
        head = RIG["front"].project(np.array([12.0, y, ground_m + 1.75]))[0]
        nearer = frames["front"].depth < without["front"].depth - 0.3
        rows = np.nonzero(nearer[:, np.abs(np.arange(320) - head[0]) < 10].sum(axis=1) >= 2)[0]
        short.append(rows.min() - head[1])  # the kerb is 3 pixels high there
    assert short[1] == pytest.approx(short[0], abs=1.4)


def test_brake_lamps_are_seen_from_behind_only():
    brake = np.arange(len(Category)) == Category.CAR
    for yaw, seen in ((0.0, True), (np.pi, False)):
        ego = look("straight")[1]
        poses = np.tile(ego + [15 * np.cos(ego[2]), 15 * np.sin(ego[2]), yaw], (len(Category), 1))
        off, _ = look("straight", poses=poses, visible=brake)
        on, _ = look("straight", poses=poses, visible=brake, agent_brake=brake)
        redder = (on["front"].rgb[..., 0] - off["front"].rgb[..., 0]) > 0.25
        assert (redder.sum() > 20) == seen
    hidden, _ = look("straight", poses=poses, agent_brake=brake)
    np.testing.assert_array_equal(hidden["front"].rgb, look("straight")[0]["front"].rgb)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_lit_lamp_has_the_colour_of_the_light(colour):
    lights = clip("junction").road.lights
    ego_route = Polyline(clip("junction").route)
    stop = next(i for i, light in enumerate(lights) if abs(light.yaw_rad - np.pi) < 0.1 and light.position[1] < -5)
    station = ego_route.project(lights[stop].position[:2])[0] - 16
    dark, ego = look("junction", station, light_colours=("none",) * len(lights))
    lit, _ = look("junction", station, light_colours=(colour,) * len(lights))
    cos, sin = np.cos(ego[2]), np.sin(ego[2])
    lamp = lamp_positions(lights[stop])[colour] - [*ego[:2], 0]
    local = np.array([cos * lamp[0] + sin * lamp[1], -sin * lamp[0] + cos * lamp[1], lamp[2]])
    column, row = RIG["front"].project(local)[0].astype(int)
    before, after = (f["front"].rgb[row - 1 : row + 2, column - 1 : column + 2].mean(axis=(0, 1)) for f in (dark, lit))
    red, green, blue = after
    assert after.max() > before.max() + 0.3
    assert {"red": red > 2 * green, "yellow": min(red, green) > 1.5 * blue, "green": green > 1.5 * red}[colour]


def test_looks_are_a_function_of_family_and_seed():
    twin = build_scene(clip("curve"))
    np.testing.assert_array_equal(twin.packed.geometry, scene("curve").packed.geometry)
    np.testing.assert_array_equal(twin.packed.sh, scene("curve").packed.sh)
    np.testing.assert_array_equal(twin.sky, scene("curve").sky)
    other = build_scene(replace(clip("curve"), seed=1))
    assert len(other.packed.geometry) != len(twin.packed.geometry)


def test_dusk_is_darker_than_overcast_and_overcast_than_day():
    def brightness(daylight: str) -> float:
        darker = build_scene(replace(clip("curve"), daylight=daylight))
        ego = Polyline(clip("curve").route).at(np.array(40.0))
        hidden = np.zeros(len(Category), bool)
        images = darker.render(RIG, ego, np.zeros((len(Category), 3)), visible=hidden)
        return float(np.mean([image.mean() for image in images.values()]))

    assert brightness("dusk") + 15 < brightness("overcast")
    assert brightness("dusk") + 15 < brightness("day")


def test_images_have_the_sizes_of_the_rig():
    images = scene("straight").render(RIG, np.zeros(3), np.zeros((len(Category), 3)))
    assert {name: (image.shape, image.dtype) for name, image in images.items()} == {
        camera.name: ((camera.height, camera.width, 3), np.dtype(np.uint8)) for camera in RIG.cameras
    }


def test_wrong_numbers_of_agents_and_lights_are_refused():
    with pytest.raises(ValueError, match="agent_poses has 1 rows, the clip has 7"):
        scene("straight").render(RIG, np.zeros(3), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="1 light colours"):
        scene("straight").render(RIG, np.zeros(3), np.zeros((7, 3)), light_colours=("red",))
    with pytest.raises(ValueError, match="wanted day, dusk or overcast"):
        build_scene(replace(clip("curve"), daylight="night"))


def test_cameras_look_where_the_rig_says():
    ahead, left, behind, up = [10.0, 0, 1.5], [1.5, 10, 1.5], [-10.0, 0, 1.5], [10.0, 0, 3.0]
    pixels, depth = RIG["front"].project(np.array([ahead, left, behind, up]))
    np.testing.assert_allclose(pixels[0], [160, 90], atol=1e-9)
    assert depth[0] == pytest.approx(8.5)
    assert depth[2] < 0
    assert pixels[3, 1] < 90
    assert RIG["rear"].project(np.array(behind))[1] == pytest.approx(9.5)
    assert RIG["left"].project(np.array(left))[0][0] < 80  # straight left is 20 deg left of its axis


def test_a_bad_rig_file_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="known rigs are.*small"):
        load_rig("large")
    path = tmp_path / "rig.json"
    path.write_text('{"name": "x", "cameras": [{"name": "a", "width": 8, "height": 8, "fov_deg": 70}]}')
    with pytest.raises(ValueError, match="position_m"):
        load_rig(str(path))
