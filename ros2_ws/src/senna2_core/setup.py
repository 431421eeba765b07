"""Packaging of senna2_core, read by pip and by colcon."""

from setuptools import find_packages, setup

setup(
    name="senna2_core",
    version="0.1.0",
    description="Vocabulary of Senna-2: decisions, kinematics, geometry, messages, bags, checkpoints",
    license="Apache-2.0",
    packages=find_packages(include=["senna2_core*"]),
    package_dir={"": "."},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/senna2_core"]),
        ("share/senna2_core", ["package.xml"]),
    ],
)
