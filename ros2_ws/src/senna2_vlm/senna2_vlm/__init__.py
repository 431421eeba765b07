"""Vision-language model: front frame, command and speed to a driving decision."""
