"""The vocabulary of the system: decisions, frames, boxes, messages, bags, checkpoints. Imports no ROS."""
