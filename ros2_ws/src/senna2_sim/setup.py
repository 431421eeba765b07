"""Packaging of senna2_sim, read by pip and by colcon."""

from setuptools import find_packages, setup

setup(
    name="senna2_sim",
    version="0.1.0",
    description="Closed-loop simulator: trajectory to ego motion to 3DGS camera frames",
    license="Apache-2.0",
    packages=find_packages(include=["senna2_sim*"]),
    package_dir={"": "."},
    package_data={"senna2_sim": ["rigs/*.json", "scenarios/*.json"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/senna2_sim"]),
        ("share/senna2_sim", ["package.xml"]),
    ],
    extras_require={"gsplat": ["gsplat==1.5.3"]},  # rendering on CUDA; compiles at its first use, with nvcc
    entry_points={"console_scripts": ["sim_node = senna2_sim.node:main"]},
)
