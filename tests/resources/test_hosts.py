"""Hosts that the user names: as a list, or in a host file."""

from __future__ import annotations

import pytest

from pympipool.resources import Host
from pympipool.resources.hosts import checked_hosts


def test_names_may_have_numbers_of_cores():
    expected = (Host("a"), Host("b.example.org", 8), Host("me@c", 2))
    assert checked_hosts("hosts", ["a", "b.example.org:8", "me@c:2"]) == expected


@pytest.mark.parametrize("line", ["b:8", "b 8", "b slots=8", "b slots=8 max_slots=9", "b slots = 8", "  b:8  # fast"])
def test_host_file_is_as_those_of_mpiexec(tmp_path, line):
    (tmp_path / "hosts").write_text(f"# ours\n\na\n{line}\n")
    assert checked_hosts("hosts", tmp_path / "hosts") == (Host("a"), Host("b", 8))


def test_host_file_may_come_from_another_system(tmp_path):
    (tmp_path / "hosts").write_bytes("\ufeffa\r\n\r\nb slots=8\r\n".encode())
    assert checked_hosts("hosts", tmp_path / "hosts") == (Host("a"), Host("b", 8))


def test_repeated_lines_of_a_host_file_add_up(tmp_path):
    (tmp_path / "hosts").write_text("a\nb:3\na\nb:2\na\n")
    assert checked_hosts("hosts", str(tmp_path / "hosts")) == (Host("a", 3), Host("b", 5))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], ["hosts is []", "at least one"]),
        (["a", "a:2"], ["with 'a' twice", "'a:2'"]),
        (["a:0"], ["'a:0'", "at least 1"]),
        (["a:" + "9" * 5000], ["9999'", "at most 1000000"]),
        (["a:x"], ["'a:x'", "at least 1"]),
        (["-oProxyCommand=touch"], ["'-oProxyCommand=touch'", "no name of a host"]),
        (["a;b"], ["'a;b'", "no name of a host"]),
        ([""], ["''", "no name of a host"]),
        (["::1"], ["'::1'", "no name of a host"]),
        ("a,b", ["'a,b'", "no host file", "['a,b']"]),
    ],
)
def test_wrong_hosts_are_told_with_a_remedy(value, words):
    with pytest.raises(ValueError, match="hosts") as error:
        checked_hosts("hosts", value)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize("value", [3, [1], [None]])
def test_hosts_of_another_type_are_refused(value):
    with pytest.raises(TypeError, match="hosts"):
        checked_hosts("hosts", value)


def test_host_file_without_hosts_is_refused(tmp_path):
    (tmp_path / "hosts").write_text("# none\n")
    with pytest.raises(ValueError, match="a file without hosts"):
        checked_hosts("hosts", tmp_path / "hosts")
