"""The examples of the specification on this machine: each as a script that plain Python runs, with the output that it says."""

import re

import pytest

from support.scripts import run_script
from support.spec_examples import EXAMPLES, GPU_EXAMPLE, on_backend, printed_by_gpu_example, scripts


@pytest.mark.parametrize(("source", "printed"), scripts("mpi"))
def test_an_example_prints_what_the_specification_prints(tmp_path, source, printed):
    (tmp_path / "notebooks").mkdir()
    assert run_script(source, tmp_path).strip() == printed


@pytest.mark.parametrize("in_block", [False, True])
def test_the_gpu_example_prints_a_device_of_its_own_for_each_worker(tmp_path, in_block):
    script = on_backend(GPU_EXAMPLE, "mpi", in_block=in_block)
    printed = run_script(script, tmp_path, variables={"CUDA_VISIBLE_DEVICES": "0,1"}).strip()
    assert printed == printed_by_gpu_example()


MISSING = {
    "slurm": r"backend 'slurm' cannot be used: .*(srun|controller does not answer).*; run the script where",
    "flux": r"backend 'flux' cannot be used: .*(bindings|no flux instance can be reached).*; start the script with",
}


@pytest.mark.parametrize("backend", MISSING)
def test_a_backend_that_is_not_there_says_so(tmp_path, backend):
    script = on_backend(EXAMPLES["a workstation"][0], backend)
    caught = script.replace("\nwith", "\ntry:\n  with").replace("\n    ", "\n      ")
    nowhere = {"SLURM_CONF": str(tmp_path / "no-such.conf"), "FLUX_URI": f"local://{tmp_path}/nobody"}
    printed = run_script(caught + "\nexcept Exception as error:\n    print(error)\n", tmp_path, variables=nowhere)
    assert re.search(MISSING[backend], printed), printed
