"""Read, run and summarise experiments. See README.md beside this file.

This module imports nothing, so that the command line can load `experiment` and `names` quickly.
"""
