/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: what the guest sends to the VM's own client of its agent, byte by byte as it may
 * come. An answer is judged once and stays bounded, terminated and printable; waiting for more
 * ends.
 */
#include <stdlib.h>

#include "agent/agent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	static struct agent_reply r, again;
	size_t n = 0;

	if (!copy)
		return 0;
	if (size)
		memcpy(copy, data, size);
	while (n <= size && !agent_parse(copy, n, &r))
		n++;
	if (n > PROTO_HEADER + PROTO_MAX_TEXT + 64)
		abort(); /* more than any answer was waited for */
	if (n <= size) {
		size_t len = strlen(r.text);

		if (len > PROTO_MAX_TEXT || r.ret > 0 || r.ret < -4095)
			abort();
		if (r.ret && !r.e.msg[0])
			abort(); /* a failure has a story */
		for (size_t i = 0; i < len; i++)
			if ((uint8_t)r.text[i] < ' ' || r.text[i] == 127)
				abort();
		/* bytes behind the answer change nothing */
		if (!agent_parse(copy, size, &again) || again.type != r.type || again.ret != r.ret)
			abort();
	}
	free(copy);
	return 0;
}
