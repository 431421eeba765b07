"""Can a bag be trained on or replayed? `python -m training.doctor BAG`."""
