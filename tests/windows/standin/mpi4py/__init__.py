"""Stands in for mpi4py where no MPI library can run: under Wine. `MPI` has what the tests and `pympipool check` use."""


class rc:
    """The settings of mpi4py; they have no effect here."""

    initialize = True
