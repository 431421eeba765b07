"""Decision adapter and diffusion planner: decision and scene tokens to trajectory."""
