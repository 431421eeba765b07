"""Command line of `senna2_sim.fit`."""

import tyro

from senna2_sim.fit.run import Args, main

if __name__ == "__main__":
    main(tyro.cli(Args, prog="python -m senna2_sim.fit", description=main.__doc__))
