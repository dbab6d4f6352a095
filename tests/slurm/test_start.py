"""`start-slurm`: there is one SLURM for tests at a time, no matter which process starts it."""

from __future__ import annotations

import subprocess

from support.slurm_cluster import SCRIPTS, environment_of_daemons


def start(folder):
    return subprocess.run(
        [SCRIPTS / "start-slurm", folder],
        env={**environment_of_daemons(), "SLURM_TEST_NODES": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_second_cluster_is_refused_with_folder_of_first(cluster, tmp_path):
    done = start(tmp_path / "other")
    assert done.returncode == 1
    assert f"another SLURM for tests runs here, in {cluster.folder}: wait" in done.stderr
    assert not (tmp_path / "other").exists()
    assert cluster.run("sinfo", "-h", "-o", "%P").split()[0] == "test*"
