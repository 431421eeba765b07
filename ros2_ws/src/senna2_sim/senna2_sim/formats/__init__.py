"""Scenes of Gaussians as files: INRIA PLY and .splat in and out, SPZ in. Axes and units are the file's own."""

from senna2_sim.formats.checks import FormatError
from senna2_sim.formats.load import load_gaussians, parse_gaussians, save_gaussians

__all__ = ["FormatError", "load_gaussians", "parse_gaussians", "save_gaussians"]
