"""Python simulators behind a pipe, for world2act."""
