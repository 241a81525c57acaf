"""Long sounds in windows."""

import numpy as np

from mmcompress.inputs.sounds import split_at_quiet


def test_a_short_sound_stays_whole():
    parts = split_at_quiet(np.ones(100, np.float32), 10, 10.0)
    assert [len(part) for part in parts] == [100]


def test_cut_in_the_pause_and_nothing_is_lost():
    wave = np.random.default_rng(0).normal(size=2500).astype(np.float32)
    wave[850:880] = 0.0  # of a second with 1,000 samples: within the last third
    wave[300:400] = 0.0  # a pause too early to be waited for
    parts = split_at_quiet(wave, 100, 10.0)
    assert len(parts[0]) in range(840, 881)
    assert max(map(len, parts)) <= 1000
    np.testing.assert_array_equal(np.concatenate(parts), wave)


def test_ten_minutes():
    parts = split_at_quiet(np.ones(600 * 50, np.float32), 50, 30.0)
    assert all(0 < len(part) <= 1500 for part in parts)
    assert sum(map(len, parts)) == 30000
