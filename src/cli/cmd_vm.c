/* SPDX-License-Identifier: MIT */
/*
 * clone vm FD: the VM process itself (src/vmm). Not for people.
 */
#include "cli/commands.h"
#include "vm/vm.h"

int cmd_vm(int argc, char **argv)
{
	return vm_process_main(argc, argv);
}
