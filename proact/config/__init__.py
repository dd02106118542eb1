"""From a text that describes an experiment to its results. See README.md beside this file.

Nothing heavy is imported here: the command line reads `defaults` before anything else is loaded.
"""
