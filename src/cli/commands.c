/* SPDX-License-Identifier: MIT */
/*
 * The table of commands, and nothing else: each has a file of its own (cmd_*.c). See cli.h for
 * exit codes.
 */
#include "cli/commands.h"

#include <stddef.h>

#include "cli/cli.h"
#include "vm/vm.h"

const struct command cli_commands[] = {
	{ "run", cmd_run, "boot a VM from an image or a kernel", cmd_run_usage },
	{ "fork", cmd_fork, "fork a template, or a running VM", cmd_fork_usage },
	{ "exec", cmd_exec, "run a command in a VM", cmd_exec_usage },
	{ "ls", cmd_ls, "list VMs", cmd_ls_usage },
	{ "inspect", cmd_inspect, "all there is to know about a VM", cmd_inspect_usage },
	{ "stats", cmd_stats, "what VMs cost in memory", cmd_stats_usage },
	{ "top", cmd_top, "the same, again and again", cmd_top_usage },
	{ "logs", cmd_logs, "show a VM's console output", cmd_logs_usage },
	{ "console", cmd_console, "attach to a VM's console", cmd_console_usage },
	{ "pause", cmd_pause, "pause VMs", cmd_pause_usage },
	{ "resume", cmd_resume, "resume paused VMs", cmd_resume_usage },
	{ "park", cmd_park, "put VMs' memory into a file until they wake", cmd_park_usage },
	{ "unpark", cmd_unpark, "wake parked VMs", cmd_unpark_usage },
	{ "stop", cmd_stop, "power VMs off, by force after a time", cmd_stop_usage },
	{ "kill", cmd_kill, "end VMs at once", cmd_kill_usage },
	{ "rm", cmd_rm, "remove ended VMs", cmd_rm_usage },
	{ "snapshot", cmd_snapshot, "save a running VM, and manage snapshots", cmd_snapshot_usage },
	{ "restore", cmd_restore, "make a VM of a snapshot", cmd_restore_usage },
	{ "template", cmd_template, "make and manage templates", cmd_template_usage },
	{ "image", cmd_image, "build and manage images", cmd_image_usage },
	{ "disk", cmd_disk, "make, check and copy files that are disks", cmd_disk_usage },
	{ "network", cmd_network, "make and manage networks", cmd_network_usage },
	{ "balloon", cmd_balloon, "take memory from a guest, or give it back", cmd_balloon_usage },
	{ "doctor", cmd_doctor, "check this host and say what to do", cmd_doctor_usage },
	{ "completion", cmd_completion, "print shell completion", cmd_completion_usage },
	{ "version", cmd_version, "print the version", cmd_version_usage },
	{ "help", cmd_help, "print help", cmd_help_usage },
	{ "vm", vm_process_main, NULL, "FD" },
	{ NULL, NULL, NULL, NULL },
};
