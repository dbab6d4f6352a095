"""The examples of the specification, on this machine. Each is run as a script and prints the output given there."""

import re

import pytest

from support.scripts import run_script
from support.spec_examples import EXAMPLES, GPU_EXAMPLE, on_backend, printed_by_gpu_example, scripts


@pytest.mark.parametrize(("source", "printed"), scripts("mpi"))
def test_example_prints_the_output_in_the_specification(tmp_path, source, printed):
    (tmp_path / "notebooks").mkdir()
    assert run_script(source, tmp_path).strip() == printed


@pytest.mark.parametrize("in_block", [False, True])
def test_gpu_example_prints_one_device_per_worker(tmp_path, in_block):
    script = on_backend(GPU_EXAMPLE, "mpi", in_block=in_block)
    printed = run_script(script, tmp_path, variables={"CUDA_VISIBLE_DEVICES": "0,1"}).strip()
    assert printed == printed_by_gpu_example()


MISSING = {
    "slurm": r"backend 'slurm' cannot be used: .*(srun|controller does not answer).*; run the script where",
    "flux": r"backend 'flux' cannot be used: .*(bindings|no flux instance can be reached).*; start the script with",
}


@pytest.mark.parametrize("backend", MISSING)
def test_unavailable_backend_raises_with_remedy(tmp_path, backend):
    script = on_backend(EXAMPLES["a workstation"][0], backend)
    caught = script.replace("\nwith", "\ntry:\n  with").replace("\n    ", "\n      ")
    unreachable = {"SLURM_CONF": str(tmp_path / "no-such.conf"), "FLUX_URI": f"local://{tmp_path}/no-such-socket"}
    printed = run_script(caught + "\nexcept Exception as error:\n    print(error)\n", tmp_path, variables=unreachable)
    assert re.search(MISSING[backend], printed), printed
