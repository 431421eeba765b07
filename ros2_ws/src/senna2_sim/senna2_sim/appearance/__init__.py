"""How a clip looks: Gaussian clouds for road, houses, trees, road users and sky, drawn from the clip's seed."""
