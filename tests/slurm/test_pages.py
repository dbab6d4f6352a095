"""The blocks of code in the pages that need SLURM, each run as a script inside a job."""

import pytest

from pages.test_scripts import check_script
from support.page_blocks import all_blocks

BLOCKS = [pytest.param(block, id=block.name) for block in all_blocks("python") if "slurm" in block.needs]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_in_a_job(job, tmp_path, block):
    check_script(block, tmp_path)
