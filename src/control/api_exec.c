/* SPDX-License-Identifier: MIT */
/*
 * PUT /exec: a command in the guest, answered when it has ended, for clients that want one request
 * and one answer. Streams, input and terminals go over the vsock socket. See doc/control.md. Main
 * thread. A client that goes away does not end the command; its answer is dropped (http_reply).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "control/api.h"
#include "vm/park.h"
#include "vm/vm.h"

#define EXEC_DEFAULT_MS 60000u
#define EXEC_TEXT_MAX 4096u /* of cwd and user */

struct exec_body {
	json_t *argv, *env;
	const char *cwd, *user;
	uint64_t timeout_ms;
};

static char *base64(const uint8_t *p, size_t n)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *text = malloc((n + 2) / 3 * 4 + 1), *to = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16;

		if (i + 1 < n)
			v |= (uint32_t)p[i + 1] << 8;
		if (i + 2 < n)
			v |= p[i + 2];
		*to++ = digits[v >> 18];
		*to++ = digits[v >> 12 & 63];
		*to++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
		*to++ = i + 2 < n ? digits[v & 63] : '=';
	}
	*to = '\0';
	return text;
}

static void exec_done(void *arg, const struct agent_exec_result *r)
{
	static const char *const kinds[] = {
		[PROTO_EXIT_EXITED] = "exited",
		[PROTO_EXIT_SIGNALED] = "signaled",
		[PROTO_EXIT_TIMEOUT] = "timeout",
	};
	cleanup_free char *out = NULL, *err = NULL;
	json_t *j = NULL;
	struct err e;

	if (r->ret) {
		api_refuse(arg, &r->e);
		return;
	}
	out = base64(r->out, r->out_bytes);
	err = base64(r->err, r->err_bytes);
	if (out && err)
		j = json_pack("{s:s, s:I, s:s, s:s, s:b, s:b}", "kind", kinds[r->kind], "value",
			      (json_int_t)r->value, "stdout", out, "stderr", err,
			      "stdout_truncated", r->out_cut, "stderr_truncated", r->err_cut);
	if (j) {
		api_answer(arg, j);
		return;
	}
	err_set(&e, ENOMEM, "out of memory");
	api_refuse(arg, &e);
}

/* The strings of an array as a vector that ends with NULL; they stay the array's. */
static int strings(const char *what, const json_t *array, const char ***out, struct err *e)
{
	size_t n = json_array_size(array);
	const char **v = calloc(n + 1, sizeof(*v));

	if (!v)
		return err_set(e, ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		const char *s = json_string_value(json_array_get(array, i));

		if (!s) {
			free(v);
			return err_set(e, EINVAL, "%s: element %zu is not a string", what, i);
		}
		v[i] = s;
	}
	*out = v;
	return 0;
}

static int check_env(const char *const *env, struct err *e)
{
	for (size_t i = 0; env[i]; i++)
		if (env[i][0] == '=' || !strchr(env[i], '='))
			return err_set(e, EINVAL, "env: element %zu is not KEY=VALUE", i);
	return 0;
}

int api_put_exec(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct exec_body, argv, WANT_ARRAY, true, 1, PROTO_MAX_ARGS),
		JSON_FIELD(struct exec_body, env, WANT_ARRAY, false, 0, PROTO_MAX_ARGS),
		JSON_FIELD(struct exec_body, cwd, WANT_STRING, false, 0, EXEC_TEXT_MAX),
		JSON_FIELD(struct exec_body, user, WANT_STRING, false, 0, EXEC_TEXT_MAX),
		JSON_FIELD(struct exec_body, timeout_ms, WANT_UINT, false, 1, API_TIMEOUT_MAX_MS),
	};
	struct exec_body b = { .timeout_ms = EXEC_DEFAULT_MS };
	cleanup_free const char **argv = NULL, **env = NULL;
	struct agent *a = vm_agent(call->vm);
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = strings("argv", b.argv, &argv, e);
	if (!r)
		r = strings("env", b.env, &env, e);
	if (!r)
		r = check_env(env, e);
	if (r)
		return r;
	if (!*argv[0])
		return err_set(e, EINVAL, "argv: the command's name is empty");
	if (!a)
		return err_set(e, ENOTCONN,
			       "this VM has not started, or has no vsock for an agent");
	r = vm_unpark(call->vm, "exec", e);
	if (r)
		return r;
	r = agent_exec(a,
		       &(struct proto_exec_args){ .timeout_ms = b.timeout_ms,
						  .user = b.user,
						  .cwd = b.cwd,
						  .argv = argv,
						  .env = env },
		       exec_done, call->rq, e);
	return r ? r : API_LATER;
}
