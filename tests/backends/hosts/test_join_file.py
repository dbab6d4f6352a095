"""The file by which hosts join, when it cannot be written."""

import json

from pympipool._util.service_threads import flush_records
from pympipool.backends.hosts.join_file import JoinFile


def test_file_is_written_when_that_is_possible_again(tmp_path, caplog):
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    file = JoinFile(folder / "run.json")
    file.write({"PYMPIPOOL_TCP": "one:1"})
    folder.rename(moved)
    for _ in range(2):
        file.update({"PYMPIPOOL_TCP": "two:2"})
    moved.rename(folder)
    file.update({"PYMPIPOOL_TCP": "two:2"})
    assert json.loads((folder / "run.json").read_text())["environment"]["PYMPIPOOL_TCP"] == "two:2"
    flush_records()
    assert caplog.text.count("no more hosts can join by") == 1
    file.remove()
    assert list(folder.iterdir()) == []
