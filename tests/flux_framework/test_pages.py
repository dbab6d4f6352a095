"""The blocks of code in the pages that need flux, each run as a script in an instance."""

import pytest

from pages.test_scripts import check_script
from support.flux_instance import path_for_scripts
from support.page_blocks import all_blocks

BLOCKS = [pytest.param(block, id=block.name) for block in all_blocks("python") if "flux" in block.needs]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_in_an_instance(instance, tmp_path, block):
    check_script(block, tmp_path, PYTHONPATH=path_for_scripts())
