"""Packaging of senna2_perception, read by pip and by colcon."""

from setuptools import find_packages, setup

setup(
    name="senna2_perception",
    version="0.1.0",
    description="Camera frames to scene tokens, objects and map",
    license="Apache-2.0",
    packages=find_packages(include=["senna2_perception*"]),
    package_dir={"": "."},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/senna2_perception"]),
        ("share/senna2_perception", ["package.xml"]),
    ],
    entry_points={
        "console_scripts": [
            "camera_node = senna2_perception.camera_node:main",
            "perception_node = senna2_perception.node:main",
        ]
    },
)
