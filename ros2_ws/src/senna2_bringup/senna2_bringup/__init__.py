"""Launch files, parameters, process manifest, recorder and whole-graph runs."""
