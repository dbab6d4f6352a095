"""Files that are mapped into memory."""

import os
import sys

import numpy as np
import pytest

from pympipool._core.file_mapping import FileMapping, checksum


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    return tmp_path / "file"


def mapped(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return FileMapping(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def test_a_mapping_shows_the_file(path):
    assert bytes(memoryview(mapped(path))) == path.read_bytes()


def test_what_is_written_stays_in_the_process(path):
    first, second = memoryview(mapped(path)), memoryview(mapped(path))
    first[7] = 99
    assert (first[7], second[7], path.read_bytes()[7]) == (99, 7, 7)


def test_a_mapping_lasts_without_its_file(path):
    content = path.read_bytes()
    view = memoryview(mapped(path))[256:512]
    path.unlink()
    assert bytes(view) == content[256:512]
    array = np.frombuffer(view, dtype="u1")
    del view
    assert array[3] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists descriptors in /proc")
def test_mappings_take_no_descriptors(path):
    before = len(os.listdir("/proc/self/fd"))
    many = [mapped(path) for _ in range(2000)]
    assert len(os.listdir("/proc/self/fd")) <= before
    assert memoryview(many[-1])[255] == 255


def test_what_cannot_be_mapped_raises(path):
    with pytest.raises(OSError, match="no room to map a file of 10 bytes"):
        FileMapping(-1, 10)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 64, 65, 500])
def test_checksums_tell_each_change(size):
    content = bytes(number * 37 % 256 for number in range(size))
    changed = [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in range(size)]
    longer = [content + bytes(count) for count in range(1, 70)]
    sums = {checksum(one) for one in [content, *changed, *longer]}
    assert len(sums) == 1 + len(changed) + len(longer)
    assert checksum(content, 1) not in sums
    assert checksum(memoryview(content)) == checksum(bytearray(content)) == checksum(content)
