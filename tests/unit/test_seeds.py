"""Are seeds of different origins different, and are the values that stores rely on unchanged?"""

from __future__ import annotations

import hashlib
from itertools import product

from proact.campaign.draws import drawn_units
from proact.faults.injection import seed_of
from proact.ops.seeds import derived_seed, derived_words, stream_of
from proact.protect.fault_scoring import search_seed


def test_a_seed_is_the_leading_bits_of_the_digest() -> None:
    digest = hashlib.sha256(b"proact fault 7 2").hexdigest()
    assert derived_seed(7, "fault", 2) == int(digest[:16], 16) >> 1
    assert stream_of("conv1.weight") == int(hashlib.sha256(b"conv1.weight").hexdigest()[:12], 16)


def test_all_users_derive_their_seeds_here() -> None:
    assert seed_of(7, 0) == 7
    assert seed_of(7, 3) == derived_seed(7, "fault", 3)
    assert search_seed(7) == derived_seed(7, "search")


def test_purposes_and_numbers_give_different_seeds() -> None:
    purposes = ("fault", "search", "search-images", "images")
    seeds = [
        derived_seed(seed, purpose, *numbers)
        for seed, purpose in product((0, 1, 11, (1 << 63) - 1), purposes)
        for numbers in ((), (0,), (1,), (1, 1), (11,))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_shorter_word_sequences_are_prefixes() -> None:
    words = derived_words(100, 3, "images", 4)
    assert derived_words(40, 3, "images", 4) == words[:40]
    assert derived_words(0, 3, "images", 4) == ()
    assert len(set(words)) == 100


def test_images_of_a_trial_are_those_of_draw_version_2() -> None:
    """Recorded before `derived_words` existed: a change must raise DRAW_VERSION."""
    assert drawn_units(2026, 7, 360, 8) == [136, 53, 164, 91, 108, 233, 113, 252]
