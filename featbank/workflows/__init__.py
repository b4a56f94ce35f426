"""The joints between the parts: one function a command, each one call from Python."""
