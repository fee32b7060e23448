"""Which test holds us to what Kata expects of nydusd, by row of the checklist (contract 7) and gotcha (6).

A test that is renamed or removed has to be replaced here.

Not here: rows 9 to 12 and gotchas 10, 12, 22, 44 to 51 are the snapshotter's, row 16 needs a cluster.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

#: number and test, further tests below it; "*" is all tests of a file
ROWS = """
1   vhostfs/nydusd/test_kata.py::test_a_sandbox_from_start_to_stop
2   vhostfs/nydusd/test_kata.py::test_a_sandbox_from_start_to_stop
3   vhostfs/nydusd/test_kata.py::test_mounts_that_fail_are_told_as_clients_parse_it
4   guest/test_kata.py::test_a_container
5   guest/test_kata.py::test_a_container
6   guest/test_kata.py::test_a_container
7   vhostfs/nydusd/test_end.py::*
    vhostfs/nydusd/test_kata.py::test_killed_and_started_again
8   vhostfs/api/test_http.py::test_idle_connections_are_never_closed
    vhostfs/api/test_http.py::test_200_connections_at_once
13  vhostfs/nydusd/test_kata.py::test_version_is_what_the_api_tells
14  vhostfs/nydusd/test_config.py::test_what_the_snapshotter_writes
    vhostfs/nydusd/test_config.py::test_json_and_toml_mean_the_same
    vhostfs/nydusd/test_config.py::test_unknown_fields_are_told_by_their_path
    vhostfs/nydusd/test_config.py::test_the_size_is_limited
15  guest/test_memory.py::*
    native/test_memory_table.py::*
"""
GOTCHAS = """
1   vhostfs/api/test_http.py::test_idle_connections_are_never_closed
    vhostfs/api/test_http.py::test_200_connections_at_once
2   vhostfs/nydusd/test_kata.py::test_a_sandbox_from_start_to_stop
3   vhostfs/api/test_routes.py::test_answers
    vhostfs/api/test_http.py::test_what_is_no_http_is_answered_in_json
4   vhostfs/nydusd/test_kata.py::test_version_is_what_the_api_tells
5   vhostfs/api/test_routes.py::test_targets
    vhostfs/test_mounts.py::test_one_spelling
6   vhostfs/api/test_http.py::test_a_large_body_and_one_too_large
    vhostfs/nydusd/test_config.py::test_what_is_secret_is_shown_nowhere
    vhostfs/api/test_service.py::test_errors_of_configurations_show_none_of_it
7   vhostfs/api/test_http.py::test_headers_and_forms_of_targets
    vhostfs/api/test_http.py::test_an_empty_put_has_no_body
    vhostfs/api/test_http.py::test_a_client_that_waits_to_be_told_to_go_on
8   vhostfs/nydusd/test_end.py::test_the_api_says_goodbye
9   vhostfs/test_mounts.py::test_a_slow_mount_holds_up_nobody_else
    vhostfs/test_mounts.py::test_who_gives_up_leaves_nothing
11  vhostfs/api/test_service.py::test_metrics_have_nydusds_shapes
13  vhostfs/nydusd/test_kata.py::test_a_sandbox_from_start_to_stop
14  vhostfs/nydusd/test_logs.py::*
    vhostfs/nydusd/test_end.py::test_a_reader_that_does_not_read_or_goes_holds_nobody_up
15  vhostfs/nydusd/test_kata.py::test_a_sandbox_from_start_to_stop
    vhostfs/nydusd/test_kata.py::test_killed_and_started_again
16  vhostfs/nydusd/test_end.py::*
17  vhostfs/nydusd/test_kata.py::test_killed_and_started_again
    rafs/test_cache_processes.py::*
    rafs/test_unsynced.py::*
18  vhostfs/nydusd/test_end.py::test_after_the_vmm_has_gone
19  vhostfs/nydusd/test_kata.py::test_nothing_is_written_where_it_was_started
20  vhostfs/nydusd/test_logs.py::test_a_log_file_with_its_folder_suffix_and_rotation
21  vhostfs/nydusd/test_arguments.py::test_flags_of_virtiofsd_are_taken_and_told_once
23  vhostfs/nydusd/test_arguments.py::test_global_options_stand_before_or_after
24  vhostfs/test_sandbox_mounts.py::test_a_later_mount_is_seen_and_goes_with_the_hosts
    guest/test_kata.py::test_a_container
25  vhostfs/nydusd/test_confine.py::test_a_container_comes_and_goes
    guest/test_kata.py::test_a_container
26  native/test_mounts.py::test_no_kind_of_mount_denies_what_another_can_do
27  native/test_mounts.py::test_a_missing_name_is_an_error_that_the_driver_does_not_keep
28  native/test_passthrough_dir.py::test_types_and_numbers
    native/test_passthrough_rename.py::test_rename_from_everything_to_everything
    native/test_passthrough_xattr.py::test_attributes_of_everything
    native/test_passthrough_make.py::test_mknod
29  native/test_mounts.py::test_node_ids_and_inode_numbers_of_two_mounts_differ
    native/test_passthrough_mounts.py::test_equal_inode_numbers_of_two_devices_are_told_apart
30  native/test_passthrough_io.py::test_a_guest_that_gathers_writes_knows_the_end_itself
    guest/test_fsx.py::test_a_guest_that_gathers_writes
31  native/test_mounts.py::test_after_umount_what_the_guest_remembers_is_stale
    native/test_mounts.py::test_mounts_come_and_go_a_thousand_times_under_reads
32  native/test_memory_table.py::*
    guest/test_memory.py::*
33  virtqueue/test_session.py::test_what_qemu_says
    virtqueue/test_session.py::test_what_cloud_hypervisor_says
    native/test_fuse_read.py::*
34  native/test_passthrough_mounts.py::test_a_plain_umount_succeeds_while_the_guest_remembers_everything
    guest/test_kata.py::test_a_container
35  native/test_passthrough_mounts.py::test_another_mount_at_the_same_path_is_another
    guest/test_kata.py::test_a_container
36  native/test_fuse_tree.py::test_attributes
    guest/test_kata.py::test_a_container
37  native/test_mounts.py::test_mounts_come_and_go_a_thousand_times_under_reads
38  vhostfs/nydusd/test_config.py::test_the_shapes_have_defaults_of_their_own
39  vhostfs/nydusd/test_config.py::test_what_the_snapshotter_writes
40  vhostfs/nydusd/test_config.py::test_what_the_snapshotter_writes
41  rafs/test_cache.py::test_a_warm_cache_of_nydusd_stays_warm
    rafs/test_cache_processes.py::*
42  vhostfs/nydusd/test_kata.py::test_a_cache_that_is_removed_serves_who_has_it
43  vhostfs/api/test_service.py::test_settings_that_change_while_it_serves
"""


def parse(text: str) -> list[tuple[int, Path, str]]:
    """Number, file and name of the test."""
    lines: list[tuple[int, Path, str]] = []
    for line in text.strip().splitlines():
        *number, test = line.split()
        file, _, name = test.partition("::")
        lines.append((int(number[0]) if number else lines[-1][0], TESTS / file, name))
    return lines


def functions_of(file: Path) -> set[str]:
    """Names of all tests in a file, those in classes too."""
    names = {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return {name for name in names if name.startswith("test_")}


@pytest.mark.parametrize("table", [ROWS, GOTCHAS], ids=["rows", "gotchas"])
def test_every_line_names_a_test_that_exists(table: str) -> None:
    for number, file, name in parse(table):
        found = functions_of(file)
        assert found if name == "*" else name in found, (number, file, name)


def test_nothing_that_concerns_kata_is_left_out() -> None:
    assert {number for number, _, _ in parse(ROWS)} == {*range(1, 9), 13, 14, 15}
    assert {number for number, _, _ in parse(GOTCHAS)} == set(range(1, 44)) - {10, 12, 22}
