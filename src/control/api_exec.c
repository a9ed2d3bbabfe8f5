/* SPDX-License-Identifier: MIT */
/*
 * PUT /exec: a short command in the guest with its whole output in the answer, for clients that
 * only speak HTTP. What streams, or takes input, goes through the vsock socket instead. See
 * doc/control.md. Main thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/time.h"
#include "control/api.h"
#include "device/device.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "vm/vm.h"
#include "vsock/vsock.h"

#define EXEC_OUTPUT_MAX (1u << 20) /* of each of stdout and stderr; the rest is dropped */
#define EXEC_LATE_MS 10000u	   /* beyond the command's own time-out */
#define EXEC_LONG_MS 3600000u	   /* for a command without one */
#define EXEC_JOBS_MAX 32u

struct output {
	char *text;
	size_t n, cap;
	bool cut;
};

struct job {
	TAILQ_ENTRY(job) link;
	struct api_execs *all;
	struct http_request *rq;
	struct fdtab *fds;
	int fd;
	struct loop_io *io;
	struct loop_timer *timer;
	uint8_t *tx, *rx; /* the EXEC frame; PROTO_MAX_FRAME of what comes back */
	size_t tx_bytes, tx_pos, rx_bytes;
	struct output out, err;
};

struct api_execs {
	TAILQ_HEAD(, job) list;
	unsigned int n;
};

struct api_execs *api_execs_create(void)
{
	struct api_execs *x = calloc(1, sizeof(*x));

	if (x)
		TAILQ_INIT(&x->list);
	return x;
}

static void job_free(struct job *j)
{
	loop_del_io(j->io);
	loop_del_timer(j->timer);
	if (j->fd >= 0) {
		fdtab_del(j->fds, j->fd);
		close(j->fd);
	}
	if (j->all) {
		TAILQ_REMOVE(&j->all->list, j, link);
		j->all->n--;
	}
	free(j->tx);
	free(j->rx);
	free(j->out.text);
	free(j->err.text);
	free(j);
}

static void job_fail(struct job *j, const struct err *e)
{
	struct http_request *rq = j->rq;

	job_free(j);
	api_refuse(rq, e);
}

void api_execs_destroy(struct api_execs *x)
{
	struct err e;

	if (!x)
		return;
	err_set(&e, ECANCELED, "the VM ended");
	while (!TAILQ_EMPTY(&x->list))
		job_fail(TAILQ_FIRST(&x->list), &e);
	free(x);
}

static bool output_add(struct output *o, const void *p, size_t n)
{
	size_t room = EXEC_OUTPUT_MAX - o->n;

	if (n > room) {
		o->cut = true;
		n = room;
	}
	if (n > o->cap - o->n) {
		size_t cap = MIN(MAX(o->cap * 2, o->n + n), (size_t)EXEC_OUTPUT_MAX);
		char *t = realloc(o->text, cap);

		if (!t)
			return false;
		o->text = t;
		o->cap = cap;
	}
	if (n)
		memcpy(o->text + o->n, p, n);
	o->n += n;
	return true;
}

/* RFC 4648 section 4. */
static json_t *base64(const struct output *o)
{
	static const char set[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	cleanup_free char *text = malloc((o->n + 2) / 3 * 4 + 1);
	char *p = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < o->n; i += 3) {
		uint32_t v = (uint32_t)(uint8_t)o->text[i] << 16;

		if (i + 1 < o->n)
			v |= (uint32_t)(uint8_t)o->text[i + 1] << 8;
		if (i + 2 < o->n)
			v |= (uint8_t)o->text[i + 2];
		*p++ = set[v >> 18];
		*p++ = set[v >> 12 & 63];
		*p++ = i + 1 < o->n ? set[v >> 6 & 63] : '=';
		*p++ = i + 2 < o->n ? set[v & 63] : '=';
	}
	return json_stringn_nocheck(text, (size_t)(p - text));
}

static void job_done(struct job *j, uint32_t kind, uint32_t value)
{
	static const char *const kinds[] = { "exited", "signaled", "timeout" };
	json_t *reply = json_pack("{s:s, s:I, s:o, s:o, s:b}", "kind", kinds[kind], "value",
				  (json_int_t)value, "stdout", base64(&j->out), "stderr",
				  base64(&j->err), "truncated", j->out.cut || j->err.cut);
	struct http_request *rq = j->rq;
	struct err e;

	job_free(j);
	if (reply) {
		api_answer(rq, reply);
		return;
	}
	err_set(&e, ENOMEM, "out of memory");
	api_refuse(rq, &e);
}

/* true while the job goes on. */
static bool job_frame(struct job *j, const struct proto_frame *f)
{
	struct proto_error pe;
	uint32_t kind, value;
	struct err e;

	switch (f->type) {
	case PROTO_STARTED:
	case PROTO_STDIN_ACK:
		return true;
	case PROTO_STDOUT:
	case PROTO_STDERR:
		if (output_add(f->type == PROTO_STDOUT ? &j->out : &j->err, f->payload.p,
			       f->payload.left))
			return true;
		err_set(&e, ENOMEM, "out of memory");
		break;
	case PROTO_EXIT:
		if (proto_get_exit(f->payload, &kind, &value)) {
			job_done(j, kind, value);
			return false;
		}
		err_set(&e, EPROTO, "the agent sent a malformed exit status");
		break;
	case PROTO_ERROR:
		if (proto_get_error(f->payload, &pe))
			err_set(&e, EREMOTEIO, "%.*s", (int)MIN(pe.text.len, (size_t)400),
				pe.text.p);
		else
			err_set(&e, EPROTO, "the agent sent a malformed error");
		break;
	default:
		err_set(&e, EPROTO, "the agent broke the protocol");
		break;
	}
	job_fail(j, &e);
	return false;
}

static void job_read(struct job *j)
{
	ssize_t n = recv(j->fd, j->rx + j->rx_bytes, PROTO_MAX_FRAME - j->rx_bytes, MSG_DONTWAIT);
	struct proto_frame f;
	size_t pos = 0;
	struct err e;
	int len;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		err_set(&e, ECONNRESET, "the guest closed the connection before the command ended");
		job_fail(j, &e);
		return;
	}
	j->rx_bytes += (size_t)n;
	while ((len = proto_frame(j->rx + pos, j->rx_bytes - pos, &f)) > 0) {
		if (!job_frame(j, &f))
			return;
		pos += (size_t)len;
	}
	if (len < 0) {
		err_set(&e, EPROTO, "the agent sent a frame beyond the limit");
		job_fail(j, &e);
		return;
	}
	memmove(j->rx, j->rx + pos, j->rx_bytes - pos);
	j->rx_bytes -= pos;
}

static void job_io(void *arg, int fd, unsigned int events)
{
	struct job *j = arg;

	if (events & LOOP_WRITE) {
		ssize_t n = send(fd, j->tx + j->tx_pos, j->tx_bytes - j->tx_pos,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		/* a failure shows as end of file when reading */
		if (n > 0)
			j->tx_pos += (size_t)n;
		if (j->tx_pos == j->tx_bytes || (n < 0 && errno != EAGAIN && errno != EINTR))
			loop_set_io(j->io, LOOP_READ);
	}
	if (events & LOOP_READ)
		job_read(j);
}

static void job_timeout(void *arg)
{
	struct err e;

	err_set(&e, ETIMEDOUT, "the guest did not end the command in time");
	job_fail(arg, &e);
}

struct exec_body {
	json_t *argv, *env;
	const char *cwd, *user;
	uint64_t timeout_ms;
};

/* The array's strings, borrowed, NULL-terminated; free the vector. */
static const char **strings(const char *what, const json_t *list, struct err *e)
{
	size_t n = json_array_size(list);
	const char **v = calloc(n + 1, sizeof(*v));

	if (!v) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		v[i] = json_string_value(json_array_get(list, i));
		if (!v[i] || (!strcmp(what, "env") && (*v[i] == '=' || !strchr(v[i], '=')))) {
			err_set(e, EINVAL, "%s[%zu]: must be a string%s", what, i,
				*what == 'e' ? " KEY=VALUE" : "");
			free(v);
			return NULL;
		}
	}
	return v;
}

static int job_fill(struct job *j, const struct exec_body *b, const uint8_t *gen, struct err *e)
{
	const char **argv = strings("argv", b->argv, e);
	const char **env = argv ? strings("env", b->env, e) : NULL;
	struct proto_exec_args x = { .gen = gen,
				     .timeout_ms = b->timeout_ms,
				     .user = b->user,
				     .cwd = b->cwd,
				     .argv = argv,
				     .env = env };
	int r = argv && env ? 0 : -EINVAL;

	j->tx = malloc(PROTO_MAX_FRAME);
	j->rx = malloc(PROTO_MAX_FRAME);
	if (!r && (!j->tx || !j->rx))
		r = err_set(e, ENOMEM, "out of memory");
	if (!r)
		j->tx_bytes = proto_put_exec(j->tx, PROTO_MAX_FRAME, &x);
	if (!r && !j->tx_bytes)
		r = err_set(e, E2BIG, "command and environment exceed %u bytes", PROTO_MAX_PAYLOAD);
	free(argv);
	free(env);
	return r;
}

static int job_start(struct job *j, struct vm *vm, uint64_t timeout_ms, struct err *e)
{
	struct loop *l = vm_machine(vm)->loop;
	int r = vsock_mux_connect(vm_vsock(vm), PROTO_AGENT_PORT, &j->fd, e);

	if (r)
		return r;
	fdtab_add(j->fds, j->fd, FD_CLOSE, "exec");
	j->io = loop_add_io(l, j->fd, LOOP_READ | LOOP_WRITE, job_io, j);
	j->timer = loop_add_timer(l, job_timeout, j);
	if (!j->io || !j->timer)
		return err_set(e, ENOMEM, "out of memory");
	loop_set_timer(j->timer,
		       (timeout_ms ? timeout_ms + EXEC_LATE_MS : EXEC_LONG_MS) * NS_PER_MS);
	return 0;
}

int api_put_exec(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct exec_body, argv, WANT_ARRAY, true, 1, PROTO_MAX_ARGS),
		JSON_FIELD(struct exec_body, env, WANT_ARRAY, false, 0, PROTO_MAX_ARGS),
		JSON_FIELD(struct exec_body, cwd, WANT_STRING, false, 0, 4096),
		JSON_FIELD(struct exec_body, user, WANT_STRING, false, 0, 256),
		JSON_FIELD(struct exec_body, timeout_ms, WANT_UINT, false, 1, API_TIMEOUT_MAX_MS),
	};
	struct agent *a = vm_agent(call->vm);
	struct exec_body b = { 0 };
	struct job *j;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (!a || !agent_reconciled(a))
		return err_set(e, EAGAIN, "the guest's agent is not there yet (PUT /agent waits)");
	if (call->execs->n >= EXEC_JOBS_MAX)
		return err_set(e, EBUSY, "%u commands are running already", EXEC_JOBS_MAX);
	j = calloc(1, sizeof(*j));
	if (!j)
		return err_set(e, ENOMEM, "out of memory");
	j->fd = -1;
	j->rq = call->rq;
	j->fds = vm_machine(call->vm)->fds;
	r = job_fill(j, &b, agent_generation(a), e);
	if (!r)
		r = job_start(j, call->vm, b.timeout_ms, e);
	if (r) {
		job_free(j);
		return r;
	}
	j->all = call->execs;
	TAILQ_INSERT_TAIL(&call->execs->list, j, link);
	call->execs->n++;
	return API_LATER;
}
