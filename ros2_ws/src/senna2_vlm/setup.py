"""Packaging of senna2_vlm, read by pip and by colcon."""

from setuptools import find_packages, setup

setup(
    name="senna2_vlm",
    version="0.1.0",
    description="Vision-language model: front frame, command and speed to a driving decision",
    license="Apache-2.0",
    packages=find_packages(include=["senna2_vlm*"]),
    package_dir={"": "."},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/senna2_vlm"]),
        ("share/senna2_vlm", ["package.xml"]),
    ],
    entry_points={"console_scripts": ["vlm_node = senna2_vlm.node:main"]},
)
