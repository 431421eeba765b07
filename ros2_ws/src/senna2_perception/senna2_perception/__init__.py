"""Camera frames to scene tokens, objects and map."""
