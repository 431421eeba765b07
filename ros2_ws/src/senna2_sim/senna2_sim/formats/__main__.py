"""`python -m senna2_sim.formats FILE`: what is inside a file of Gaussians."""

import sys
from pathlib import Path

import numpy as np
import tyro

from senna2_sim.formats import FormatError, load_gaussians
from senna2_sim.gaussians import SH_SIZES


def main(file: tyro.conf.Positional[Path]) -> int:
    """Print count, SH degree, bounds and ranges of a .ply, .splat or .spz file."""
    try:
        cloud = load_gaussians(file)
    except (FormatError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{file}: {len(cloud)} Gaussians, SH degree {SH_SIZES.index(cloud.sh.shape[1])}")
    print(f"{'':10}{'min':>12}{'1 %':>12}{'median':>12}{'99 %':>12}{'max':>12}")
    columns = {axis: cloud.means[:, i] for i, axis in enumerate("xyz")}
    for title, values in {**columns, "scale": cloud.scales, "opacity": cloud.opacities}.items():
        print(f"{title:10}" + "".join(f"{q:12.4g}" for q in np.quantile(values, [0, 0.01, 0.5, 0.99, 1])))
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
