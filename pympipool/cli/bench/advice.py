"""Conclude from the measurements which settings to use for which calls."""

from __future__ import annotations

from collections.abc import Iterator

from pympipool._util.formatting import format_bytes, format_rate, format_seconds
from pympipool.cli.bench.measuring import CHUNKSIZE, Measured
from pympipool.execution.adaptive_batches import BATCH_S

ACCEPTED_LOSS = 0.05
"""Share of the time of all cores that may be lost before another setting is advised."""

ENOUGH = 0.95
"""Share of the best speed that is enough: the smallest number of workers that reaches it is advised."""

QUIET = 0.5
"""Load per core up to which other programs hardly disturb a measurement."""


def advice(measured: Measured) -> list[str]:
    """Return sentences, each about one setting."""
    return [
        *_load(measured),
        *_lifetime(measured),
        *_chunksize(measured),
        *_workers(measured),
        *_data(measured),
        *_mpi(measured),
    ]


def shortest_for(overhead_s: float) -> float:
    """Return the length of calls from which on an overhead costs at most `ACCEPTED_LOSS`, in s with two digits.

    Examples:
        >>> shortest_for(0.01)
        0.19
    """
    return _two_digits(overhead_s * (1 - ACCEPTED_LOSS) / ACCEPTED_LOSS)


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def block_overhead_s(measured: Measured) -> float:
    """Return the overhead of a call, in s of one core, with submit and block allocation."""
    return measured.cores / measured.rates[measured.cores]


def alone_overhead_s(measured: Measured) -> float:
    """Return the overhead of a call with a process of its own, from the length of calls at which it shows best."""
    clearest = min(measured.lengths, key=lambda length: abs(length.alone - 0.5))
    if not 0 < clearest.alone < 1:
        return measured.alone_s
    return clearest.call_s * (1 / clearest.alone - 1)


def _load(measured: Measured) -> Iterator[str]:
    if measured.load > QUIET * measured.cores:
        yield (
            f"Measure again when the machine is quiet: its load was {measured.load:.1f} before this began, so the results"
            " are worse than they could be."
        )


def _lifetime(measured: Measured) -> Iterator[str]:
    block_s, alone_s = shortest_for(block_overhead_s(measured)), shortest_for(alone_overhead_s(measured))
    if block_s < alone_s:
        yield (
            f"block_allocation=True for calls shorter than {format_seconds(alone_s)}: a process of its own costs each call"
            f" {format_seconds(measured.alone_s)}, a long-lived worker {format_seconds(measured.trip_s)}. Longer calls lose less"
            f" than {ACCEPTED_LOSS:.0%} either way, and without block allocation each gets a fresh process."
        )
    yield (
        f"map instead of submit for calls shorter than {format_seconds(block_s)}, all on block_allocation=True: it packs"
        " many of them into one message."
    )
    yield (
        f"Keep one executor for many pieces of work: its workers take {format_seconds(measured.all_s)} to start, as long as"
        f" {measured.all_s * measured.rates[measured.cores]:.0f} calls that do nothing."
    )


def _chunksize(measured: Measured) -> Iterator[str]:
    rates = f"{format_rate(measured.map_rate)} without, {format_rate(measured.chunked_rate)} with chunksize={CHUNKSIZE}"
    if measured.chunked_rate < 1.2 * measured.map_rate:
        yield f"Do not set chunksize of map: it adapts the number of calls in a message by itself ({rates})."
        return
    longest_s = _two_digits(BATCH_S / 10)
    yield (
        f"chunksize of map: do not set it, map adapts the number of calls in a message by itself; only for many calls that all"
        f" take less than {format_seconds(longest_s)} set one, of about {format_seconds(BATCH_S)} / length of a call ({rates})."
    )


def _workers(measured: Measured) -> Iterator[str]:
    best = max(measured.speed_ups.values())
    enough = min(workers for workers, speed_up in measured.speed_ups.items() if speed_up >= ENOUGH * best)
    reached = f"{measured.speed_ups[enough]:.1f} times the speed of one"
    if enough == 1 and measured.cores > 1:
        yield (
            "max_workers=1: more of them were not faster. The cores are busy with something else, or there are fewer of them than"
            " there seem to be."
        )
    elif enough < measured.cores:
        yield f"max_workers={enough} for calls that compute: {reached}; more workers are not faster."
    else:
        yield f"max_workers={enough}, one for each core, for calls that compute: {reached}."
    if measured.speed_ups[enough] < 0.75 * enough:
        yield (
            f"{enough} workers should reach about {enough} times: hardware threads that share a core, other programs on the"
            " machine, or a quota take away the rest. Measure again when the machine is quiet."
        )
    if measured.cores > 1:
        yield (
            "For calls that wait (for files, for other programs) use more workers than cores: set max_workers instead of"
            " max_cores."
        )


def _data(measured: Measured) -> Iterator[str]:
    size_bytes = max(measured.echoes_s)
    taken_s = measured.echoes_s[size_bytes]
    yield (
        f"Data: {format_bytes(size_bytes)} to a worker and back take {format_seconds(taken_s)}"
        f" ({format_bytes(2 * size_bytes / taken_s)}/s). Load data that many calls read and none changes once in each worker, with"
        " init_function."
    )


def _mpi(measured: Measured) -> Iterator[str]:
    if measured.no_mpi:
        yield f"MPI was not measured{' with more ranks' if measured.mpi else ''}: {measured.no_mpi}."
    for found in measured.mpi:
        # A call of T s on one core takes T / ranks + overhead in parallel, which is less from the times below on.
        share = found.ranks / (found.ranks - 1)
        block_s = _two_digits(max(found.trip_s - measured.trip_s, 0.0) * share)
        alone_s = _two_digits(max(found.alone_s - measured.alone_s, 0.0) * share)
        yield (
            f"MPI with {found.ranks} ranks ends a call that divides well sooner if it takes more than"
            f" {format_seconds(block_s)} on one core with block_allocation=True ({format_seconds(found.trip_s)} for each call), or"
            f" {format_seconds(alone_s)} without ({format_seconds(found.alone_s)}, each call starts MPI)."
        )
    if measured.mpi:
        yield (
            "Many calls that do not depend on each other use the cores best as serial calls: MPI is for a call that must end"
            " sooner, or needs more memory than one process can have."
        )
