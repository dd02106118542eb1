"""What an experiment is unless its file or flags say otherwise. Plain values: help pages read them
without waiting for torch."""

from __future__ import annotations

#: The version of the form of experiment files that this proact writes, and the newest it reads.
FORM = 1

#: What a variant without protection is called where variants are given by their methods alone.
UNPROTECTED = "relu"

NETWORK = "small-cnn"
DATA = "digits"
IMAGE_SIZE = 224
METHODS = (UNPROTECTED, "ranger", "proact", "weight-range")
BERS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
ENCODING = "q15.16"
MARGIN = 0.01
CONFIDENCE = 0.95
IMAGES_PER_TRIAL = "auto"
METRIC = "top-1"
SEED = 0
#: Small networks gain nothing from more.
THREADS = 1
