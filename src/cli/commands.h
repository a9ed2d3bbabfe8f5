/* SPDX-License-Identifier: MIT */
/*
 * The commands, one file each (cmd_NAME.c), for the table in main.c. Each takes its arguments with
 * argv[0] the command's name, prints its own errors and returns an exit code of cli.h.
 */
#ifndef CLONE_CLI_COMMANDS_H
#define CLONE_CLI_COMMANDS_H

int cmd_run(int argc, char **argv);
int cmd_fork(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_logs(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_kill(int argc, char **argv);
int cmd_park(int argc, char **argv);
int cmd_unpark(int argc, char **argv);
int cmd_rm(int argc, char **argv);
int cmd_template(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_disk(int argc, char **argv);
int cmd_network(int argc, char **argv);
int cmd_balloon(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_completion(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_help(int argc, char **argv);

extern const char cmd_run_usage[];
extern const char cmd_fork_usage[];
extern const char cmd_exec_usage[];
extern const char cmd_ls_usage[];
extern const char cmd_inspect_usage[];
extern const char cmd_stats_usage[];
extern const char cmd_top_usage[];
extern const char cmd_logs_usage[];
extern const char cmd_console_usage[];
extern const char cmd_pause_usage[];
extern const char cmd_resume_usage[];
extern const char cmd_park_usage[];
extern const char cmd_unpark_usage[];
extern const char cmd_stop_usage[];
extern const char cmd_kill_usage[];
extern const char cmd_rm_usage[];
extern const char cmd_template_usage[];
extern const char cmd_snapshot_usage[];
extern const char cmd_restore_usage[];
extern const char cmd_image_usage[];
extern const char cmd_disk_usage[];
extern const char cmd_network_usage[];
extern const char cmd_balloon_usage[];
extern const char cmd_doctor_usage[];
extern const char cmd_completion_usage[];
extern const char cmd_version_usage[];
extern const char cmd_help_usage[];

#endif
