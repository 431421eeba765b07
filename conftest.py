"""Ctrl-C works in tests also where a shell started them in the background, with SIGINT ignored: children inherit it."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
