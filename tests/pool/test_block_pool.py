"""The pauses before workers are replaced that die again and again."""

import pytest

from pympipool.pool.block_pool import RESTART_DELAY_MAX_S, RESTART_DELAY_S, restart_delay_s


@pytest.mark.parametrize("rounds", [1, 2, 20, 5000])
def test_pause_before_a_restart_grows_and_is_bounded(rounds):
    assert RESTART_DELAY_S < restart_delay_s(rounds) <= RESTART_DELAY_MAX_S
    assert restart_delay_s(rounds) >= restart_delay_s(rounds - 1)
