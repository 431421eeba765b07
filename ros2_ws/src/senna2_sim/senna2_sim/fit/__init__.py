"""Fit Gaussians to photographs with known poses: `python -m senna2_sim.fit --help`."""
