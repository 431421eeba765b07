"""Topics of the graph and their types: what a bag holds."""

CAMERAS = ("front", "left", "right", "rear")  # of the small rig

TOPICS = {
    "/clock": "rosgraph_msgs/msg/Clock",
    "/ego/odometry": "nav_msgs/msg/Odometry",
    "/ego/navigation": "senna2_msgs/msg/NavigationCommand",
    "/perception/scene_tokens": "senna2_msgs/msg/SceneTokens",
    "/perception/objects": "senna2_msgs/msg/Objects",
    "/perception/map": "senna2_msgs/msg/MapElements",
    "/vlm/decision": "senna2_msgs/msg/Decision",
    "/vlm/forced_decision": "std_msgs/msg/String",
    "/planner/vlm_condition": "senna2_msgs/msg/VlmCondition",
    "/planner/trajectory": "senna2_msgs/msg/Trajectory",
    "/planner/path": "nav_msgs/msg/Path",
    "/planner/consistency": "senna2_msgs/msg/Consistency",
    "/planner/markers": "visualization_msgs/msg/MarkerArray",
    "/sim/ground_truth": "senna2_msgs/msg/GroundTruth",
    "/sim/signals": "senna2_msgs/msg/Signals",
    "/sim/map": "senna2_msgs/msg/MapElements",
    "/sim/markers": "visualization_msgs/msg/MarkerArray",
    "/sim/events": "senna2_msgs/msg/SimEvent",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}


def camera_topics(cameras: tuple[str, ...] = CAMERAS) -> dict[str, str]:
    """Compressed images and calibration of these cameras."""
    images = {f"/camera/{name}/compressed": "sensor_msgs/msg/CompressedImage" for name in cameras}
    return images | {f"/camera/{name}/camera_info": "sensor_msgs/msg/CameraInfo" for name in cameras}
