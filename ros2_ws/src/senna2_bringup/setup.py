"""Packaging of senna2_bringup, read by pip and by colcon."""

from glob import glob

from setuptools import find_packages, setup

setup(
    name="senna2_bringup",
    version="0.1.0",
    description="Launch files, parameters, process manifest, recorder, bag replay and whole-graph runs",
    license="Apache-2.0",
    packages=find_packages(include=["senna2_bringup*"]),
    package_dir={"": "."},
    package_data={"senna2_bringup": ["config/*", "*.xml", "*.html"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/senna2_bringup"]),
        ("share/senna2_bringup", ["package.xml"]),
        ("share/senna2_bringup/launch", glob("launch/*")),
        ("share/senna2_bringup/view", glob("view/*")),
    ],
    entry_points={
        "console_scripts": [
            "bag_player = senna2_bringup.bag_player:main",
            "force = senna2_bringup.force:main",
            "recorder = senna2_bringup.recorder:main",
            "scorer = senna2_bringup.scorer:main",
        ]
    },
)
