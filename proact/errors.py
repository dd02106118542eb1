"""The error that proact raises where neither ValueError nor TypeError fits."""


class ProactError(Exception):
    """Something outside the arguments stands in the way: a file, the machine, another program."""
