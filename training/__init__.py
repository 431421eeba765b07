"""Recording, training and evaluation: `python -m training.<name> --help`."""
