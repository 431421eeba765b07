"""The same examples in every run."""

import os

from hypothesis import settings

os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("repeatable")
