"""Packaging of senna2_planner, read by pip and by colcon."""

from setuptools import find_packages, setup

setup(
    name="senna2_planner",
    version="0.1.0",
    description="Decision adapter and diffusion planner: decision and scene tokens to trajectory",
    license="Apache-2.0",
    packages=find_packages(include=["senna2_planner*"]),
    package_dir={"": "."},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/senna2_planner"]),
        ("share/senna2_planner", ["package.xml"]),
    ],
    entry_points={
        "console_scripts": [
            "adapter_node = senna2_planner.adapter_node:main",
            "planner_node = senna2_planner.node:main",
        ]
    },
)
