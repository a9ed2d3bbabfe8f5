/* SPDX-License-Identifier: MIT */
/*
 * The agent protocol: the file that host (VMM, CLI, tests; glibc) and guest (clone-agent; static
 * musl) share: the specification, the limits, the type numbers and the messages, on top of the
 * bounded reader and writer of proto_wire.h. All static inline, allocating nothing, without state:
 * any thread. (Long for a file of ours: a protocol should be read in one place.)
 *
 * TRANSPORT. AF_VSOCK streams. The agent listens on port PROTO_AGENT_PORT; one connection is one
 * session. Once it listens (and again after a restart of the agent) it connects to the host, CID
 * 2, port PROTO_READY_PORT, and sends one READY frame; the host closes when it has heard it, and
 * what ends otherwise, in a fork or because nobody listens, the agent tries again (every 5 s at
 * last). From version 4 on it does the same with a REPORT when tasks of the guest stand still for
 * want of memory (at most once in PROTO_PRESSURE_MS), so that the host need not ask often.
 *
 * VERSIONS. The host takes agents of PROTO_VERSION_OLDEST on (they lie in templates and images); an
 * agent does not learn the host's. Version 3 is without what is marked "from 4 on".
 *
 * FRAME. le32 length of the payload (at most PROTO_MAX_PAYLOAD), u8 type, payload. Integers are
 * little-endian, unsigned. In the layouts below
 *     gen    16 bytes, a generation id; all zero means "never reconciled"
 *     s16    le16 length, then that many bytes, none of them NUL, no terminator
 *     s32    le32 length, then that many bytes, none of them NUL, no terminator
 *     b16    le16 length, then that many bytes of any value
 *     list   le16 count, then that many s32
 *     rest   all bytes to the end of the payload, possibly none
 * A payload must be used up exactly: a byte missing or a byte left over is malformed, and so is an
 * unknown flag, an unknown type, a type that is not legal in the session's state, or a value beyond
 * its limit. The agent answers anything malformed with ERROR (stage PROTO_STAGE_PROTOCOL) and
 * closes that connection; a connection that sends no whole first frame within 60 s is closed, and
 * so is, with ERROR EAGAIN, one beyond PROTO_MAX_CONNS.
 *
 * FIRST FRAME of the host: decides the session.
 *   EXEC      gen, u32 flags (PROTO_EXEC_*), u64 timeout_ms (0: none), u16 rows, u16 cols (0 and
 *             0: 24 and 80; used with TTY only), s16 user, s16 cwd, list argv (1 or more), list
 *             env (each "KEY=VALUE")
 *   IDENTITY  gen (not zero), u64 realtime_ns (since 1970; 0: leave the clock), u32 flags
 *             (PROTO_IDENTITY_*), u32 timeout_ms (how long the host will wait; 0: unsaid), b16
 * entropy (at most PROTO_MAX_ENTROPY), s16 name (of the machine, as the host calls it; at most
 * PROTO_MAX_NAME; may be empty), s16 hostname (at most PROTO_MAX_HOSTNAME; empty: leave), s16
 * machine_id (32 lower-case hex digits; empty: leave), b16 userdata (at most PROTO_MAX_USERDATA),
 * u8 count of NICs (at most PROTO_MAX_NICS), each
 *                 6 bytes driver_mac (the one that the guest's driver read when it started), 6
 *                 bytes mac (the one to have; both unicast and not zero), u16 mtu (0: leave),
 *                 u8 prefix4 (at most 32; 0: no IPv4 address is given), 4 bytes ip4, 4 bytes gw4
 *                 (zero: no way out), u8 prefix6 (at most 128; 0: none), 16 bytes ip6, 16 bytes
 *                 gw6, u8 count of name servers (at most PROTO_MAX_DNS), each u8 family (4 or 6)
 *                 and 16 bytes (of family 4 the first 4 count); addresses in network byte order
 *   SETTLE    u32 flags (PROTO_SETTLE_*), u32 timeout_ms (how long to wait for an idle guest)
 *   SHUTDOWN  u8 mode (PROTO_SHUTDOWN_*), u32 grace_ms: after it the agent forces it
 *             (0: 10 s, or 60 s if the distribution's own poweroff or reboot succeeded)
 *   ACTIVITY  (empty)
 *   PING      (empty)
 *
 * ANSWERS of the guest.
 *   ACK       u32 version (PROTO_VERSION), gen (the agent's), u64 realtime_ns (the guest's clock),
 *             u32 done (SETTLE: the steps that were done, as PROTO_SETTLE_*; otherwise 0),
 *             s16 text (remarks for a person; may be empty)
 *   ERROR     u32 errno (Linux number), u8 stage (PROTO_STAGE_*), s16 text (one line)
 *   REPORT    u64 uptime_ms, u32 load1_x100, u32 procs, u32 sessions (commands running), u64
 *             exec_count, u64 last_exec_ms (milliseconds since the last EXEC was accepted; ~0:
 *             never), u64 mem_total_bytes, u64 mem_available_bytes; from 4 on u32 flags
 *             (PROTO_REPORT_*), u64 mem_free_bytes, u64 mem_cached_bytes (page cache and
 *             reclaimable slab), u64 swap_total_bytes, u64 swap_used_bytes, u64 swap_in_pages and
 *             u64 oom_kills (both since boot), u64 cpu_busy_ms, u64 cpu_idle_ms (both since boot,
 *             of all CPUs; waiting for a disk is busy), u32 psi_some_x100, u32 psi_full_x100
 *             (percent of the last 10 s in which some or all tasks stood still for want of
 *             memory), u64 psi_some_us, u64 psi_full_us (the same in sum since boot)
 *   READY     u32 version, gen (the agent's)
 * IDENTITY, SETTLE, SHUTDOWN and PING are answered by one ACK or ERROR, ACTIVITY by one REPORT or
 * ERROR; then the agent closes.
 *
 * EXEC SESSION. After EXEC the guest sends STARTED once execve(2) has succeeded, or ERROR and
 * closes. Then, in any order:
 *   host to guest
 *     STDIN      rest: data; legal only with PROTO_EXEC_STDIN and before STDIN_EOF
 *     STDIN_EOF  (empty): no more input; with TTY the agent types the terminal's EOF character
 *     RESIZE     u16 rows, u16 cols; without TTY ignored
 *     SIGNAL     u8 number (1 to 64): to the command's process group
 *   guest to host
 *     STARTED    u32 pid (in the guest)
 *     STDOUT     rest: data; with TTY everything comes here
 *     STDERR     rest: data
 *     STDIN_ACK  u32 bytes of STDIN taken by the command since the last STDIN_ACK; sent when they
 *                are a quarter of PROTO_STDIN_WINDOW, or earlier
 *     EXIT       u8 kind (PROTO_EXIT_*), u32 value: the last frame, then the agent closes
 *
 *   Input. The agent holds up to PROTO_STDIN_WINDOW bytes that the command has not read; beyond it
 *   the agent stops reading the connection. A host that never has more than that many bytes
 *   unacknowledged (count STDIN bytes sent, subtract STDIN_ACK) therefore never gets its RESIZE and
 *   SIGNAL stuck behind data. A host that ignores STDIN_ACK is correct too, without that promise.
 *   Input for a command that has closed its stdin is acknowledged and dropped.
 *   The host shutting down its sending side counts as STDIN_EOF.
 *
 *   Output. Nothing is read from the command while the connection does not take what was read
 *   before: a slow host slows the command and loses nothing.
 *
 *   End. EXIT comes when the command has ended and its stdout and stderr are at end of file. If a
 *   process it left behind keeps them open, EXIT comes PROTO_LINGER_MS after the end, and not
 *   before all that was in the pipes at that moment was sent; later output is read and dropped.
 *
 *   Timeout. SIGTERM to the process group when it expires, SIGKILL to it PROTO_KILL_GRACE_MS later
 *   (or as soon as the command itself has ended); EXIT has kind PROTO_EXIT_TIMEOUT then. The time
 *   runs from STARTED to the end of the command.
 *
 *   Disconnection does not end the command: it runs on, its output is read and dropped, its stdin
 *   sees what was already sent and then end of file, its timeout stays in force.
 *
 *   The command is leader of its own session and process group. It starts with user and groups of
 *   `user` ("", a name or a number, optionally ":group"; empty is root), in `cwd` (empty: the
 *   user's home, or / if that is missing), with PATH, HOME, USER, LOGNAME, SHELL, LANG and, with
 *   TTY, TERM set, then env over them. argv[0] is looked up in the PATH that results.
 *
 * GENERATION. Only IDENTITY sets the agent's generation. EXEC whose gen differs from it is refused
 * with ERROR ESTALE, stage PROTO_STAGE_GENERATION: no command runs in a guest that has not
 * reconciled. An agent that has had no IDENTITY at all since it started takes a zero gen: the way
 * to run commands in a machine that is not a fork. After a first IDENTITY zero is never right
 * again: while one is in progress, and after one has failed, every EXEC is refused.
 *
 * IDENTITY invalidates the generation, then: credits the entropy and reseeds the kernel's
 * generator, sets the clock, the network, the host name (and /etc/hostname), /etc/machine-id (and
 * /var/lib/dbus/machine-id if that is a file of its own), /run/clone/userdata; runs the executables
 * in /etc/clone/fork.d in lexical order, each at most PROTO_HOOK_MS, or all of them at most three
 * quarters of timeout_ms, so that the host hears which one was late, with CLONE_REASON ("boot", or
 * "fork" with PROTO_IDENTITY_FORK), CLONE_NAME, CLONE_GENERATION (hex), CLONE_HOSTNAME,
 * CLONE_MACHINE_ID, CLONE_OLD_HOSTNAME, CLONE_OLD_MACHINE_ID (as they were before this IDENTITY),
 * CLONE_USERDATA (a path) in the environment; with PROTO_IDENTITY_FORK, where systemd runs and a
 * unit is wanted or required by clone-fork.target, restarts that, under the same limit, as if it
 * were the last hook; sets the generation; ACK. The first step that fails answers ERROR (stage
 * PROTO_STAGE_IDENTITY, or PROTO_STAGE_HOOK with the hook's name and output) and leaves the
 * generation invalid (ACK then shows zero). A file that cannot be written on a read-only root is a
 * remark in ACK, not an error, if the running system has the new value. A second IDENTITY replaces
 * one in progress (that is answered ERROR ECANCELED); losing the connection cancels it.
 *
 * The network, when there are NICs in the list. With PROTO_IDENTITY_FORK first every TCP connection
 * that is not of the loopback's addresses ends with an error for its program: the other end belongs
 * to the parent. Then for each NIC, its interface being the one whose permanent address is
 * driver_mac (or, where the kernel knows no permanent one, whose address is): the MAC and the MTU
 * are set; with PROTO_IDENTITY_FORK all its addresses are removed (but one that follows from the
 * new MAC), otherwise those of a family of which another is given; where an address is given, it is
 * added, the interface comes up, and the default route leads to the gateway. Without one somebody
 * else (a DHCP client) is to ask for it. Name servers go into /etc/resolv.conf, whose other lines
 * stay. lo comes up. No such interface, a resolv.conf that is a link or cannot be written, and a
 * kernel that cannot end connections or has no IPv6 are remarks in ACK.
 *
 * SETTLE makes a guest ready to become a template; see PROTO_SETTLE_* for the steps, done in that
 * order. A guest that does not get idle in time is not an error: PROTO_SETTLE_IDLE is then missing
 * in `done`, the other steps are done all the same.
 */
#ifndef CLONE_GUEST_PROTO_H
#define CLONE_GUEST_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto_wire.h"

#define PROTO_VERSION 4u
#define PROTO_VERSION_OLDEST 3u
#define PROTO_AGENT_PORT 1024u /* the agent listens here */
/* The agent tells the host at READY_PORT that it is there, from a port that the guest's kernel
 * keeps for root: ROOT_PORT_MAX at most. */
#define PROTO_READY_PORT 1025u
#define PROTO_ROOT_PORT_MAX 1023u
#define PROTO_GEN 16u
#define PROTO_MAX_ENTROPY 256u
#define PROTO_MAX_NAME 64u
#define PROTO_MAX_HOSTNAME 64u
#define PROTO_MAX_USERDATA 16384u
#define PROTO_MACHINE_ID 32u
#define PROTO_MAX_NICS 4u
#define PROTO_MAX_DNS 4u
#define PROTO_MAX_NIC (57u + 17u * PROTO_MAX_DNS) /* bytes of one in IDENTITY */
#define PROTO_MAX_TEXT 4096u
#define PROTO_MAX_CONNS 256u
#define PROTO_STDIN_WINDOW 131072u
#define PROTO_FIRST_FRAME_MS 60000 /* a host with a hundred guests at work may be slow */
#define PROTO_LINGER_MS 200
#define PROTO_KILL_GRACE_MS 500
#define PROTO_HOOK_MS 10000
#define PROTO_PRESSURE_MS 1000
#define PROTO_SHUTDOWN_MS 10000	      /* by default until the agent forces it ... */
#define PROTO_SHUTDOWN_TAKEN_MS 60000 /* ... once the distribution has begun to shut down */

enum proto_type {
	PROTO_EXEC = 1,
	PROTO_IDENTITY = 2,
	PROTO_SETTLE = 3,
	PROTO_SHUTDOWN = 4,
	PROTO_ACTIVITY = 5,
	PROTO_PING = 6,

	PROTO_STDIN = 16,
	PROTO_STDIN_EOF = 17,
	PROTO_RESIZE = 18,
	PROTO_SIGNAL = 19,

	PROTO_STARTED = 128,
	PROTO_STDOUT = 129,
	PROTO_STDERR = 130,
	PROTO_STDIN_ACK = 131,
	PROTO_EXIT = 132,
	PROTO_ACK = 133,
	PROTO_ERROR = 134,
	PROTO_REPORT = 135,
	PROTO_READY = 136,
};

#define PROTO_EXEC_TTY 1u   /* a terminal instead of pipes */
#define PROTO_EXEC_STDIN 2u /* STDIN follows; else stdin is /dev/null, or a silent terminal */
#define PROTO_EXEC_ALL 3u

#define PROTO_IDENTITY_FORK 1u /* the guest has run under another identity */
#define PROTO_IDENTITY_ALL 1u

#define PROTO_REPORT_PSI 1u /* the kernel accounts pressure: the psi_ fields are good */
#define PROTO_REPORT_ALL 1u

#define PROTO_SETTLE_IDLE 1u	/* wait until the CPUs are at least 97 % idle for a second */
#define PROTO_SETTLE_SYNC 2u	/* write dirty data to disk */
#define PROTO_SETTLE_DROP 4u	/* drop the page cache, dentries, inodes */
#define PROTO_SETTLE_COMPACT 8u /* compact memory */
#define PROTO_SETTLE_ZERO 16u	/* overwrite free memory with zeros */
#define PROTO_SETTLE_ALL 31u

#define PROTO_SHUTDOWN_POWEROFF 0u
#define PROTO_SHUTDOWN_REBOOT 1u

#define PROTO_EXIT_EXITED 0u   /* value: exit status */
#define PROTO_EXIT_SIGNALED 1u /* value: signal number */
#define PROTO_EXIT_TIMEOUT 2u  /* value: 0; ended because of timeout_ms */

/* What the agent was doing when ERROR's errno arose. */
#define PROTO_STAGE_REQUEST 0u	  /* anything else: too many sessions, not supported, ... */
#define PROTO_STAGE_PROTOCOL 1u	  /* malformed */
#define PROTO_STAGE_GENERATION 2u /* ESTALE */
#define PROTO_STAGE_SETUP 3u	  /* EXEC: user, cwd, terminal, fork */
#define PROTO_STAGE_COMMAND 4u	  /* EXEC: execve: not found is ENOENT (shells: 127), else 126 */
#define PROTO_STAGE_IDENTITY 5u
#define PROTO_STAGE_HOOK 6u
#define PROTO_STAGE_SETTLE 7u

/*
 * Messages. A proto_put_X makes a whole frame in `buf` (PROTO_MAX_FRAME bytes hold any; the short
 * ones need PROTO_SMALL_FRAME) and returns its size or 0 if a value is beyond its limit. A
 * proto_get_X reads the payload of a frame of that type and returns false if it is malformed;
 * slices in its result point into the frame.
 */
#define PROTO_SMALL_FRAME 192u

struct proto_exec_args { /* EXEC as its sender has it */
	const uint8_t *gen;
	uint32_t flags;
	uint64_t timeout_ms;
	uint16_t rows, cols;
	const char *user, *cwd; /* NULL: empty */
	const char *const *argv;
	const char *const *env; /* NULL: none */
};

struct proto_exec { /* EXEC as received */
	struct proto_slice gen;
	uint32_t flags;
	uint64_t timeout_ms;
	uint16_t rows, cols;
	struct proto_slice user, cwd;
	struct proto_list argv, env;
};

static inline size_t proto_put_exec(void *buf, size_t cap, const struct proto_exec_args *a)
{
	struct proto_wr w;

	proto_begin(&w, buf, cap, PROTO_EXEC);
	proto_put(&w, a->gen, PROTO_GEN);
	proto_put_u32(&w, a->flags);
	proto_put_u64(&w, a->timeout_ms);
	proto_put_u16(&w, a->rows);
	proto_put_u16(&w, a->cols);
	proto_put_s16(&w, a->user);
	proto_put_s16(&w, a->cwd);
	proto_put_list(&w, a->argv);
	proto_put_list(&w, a->env);
	return proto_end(&w);
}

static inline bool proto_get_exec(struct proto_rd r, struct proto_exec *x)
{
	struct proto_list env;
	struct proto_slice s;

	x->gen = proto_get(&r, PROTO_GEN);
	x->flags = proto_get_u32(&r);
	x->timeout_ms = proto_get_u64(&r);
	x->rows = proto_get_u16(&r);
	x->cols = proto_get_u16(&r);
	x->user = proto_get_s16(&r, UINT16_MAX);
	x->cwd = proto_get_s16(&r, UINT16_MAX);
	x->argv = proto_get_list(&r);
	x->env = proto_get_list(&r);
	if (!proto_done(&r) || (x->flags & ~PROTO_EXEC_ALL) || !x->argv.count)
		return false;
	for (env = x->env; proto_list_next(&env, &s);)
		if (!s.len || s.p[0] == '=' || !memchr(s.p, '=', s.len))
			return false;
	return true;
}

struct proto_nic { /* one of IDENTITY's, both ways */
	uint8_t driver_mac[6], mac[6];
	uint16_t mtu;
	uint8_t prefix4, ip4[4], gw4[4];
	uint8_t prefix6, ip6[16], gw6[16];
	uint8_t ndns;
	struct proto_dns {
		uint8_t family, addr[16];
	} dns[PROTO_MAX_DNS];
};

struct proto_identity_args { /* IDENTITY as its sender has it */
	const uint8_t *gen;
	uint64_t realtime_ns;
	uint32_t flags, timeout_ms;
	const void *entropy;
	size_t entropy_len;
	const char *name;		   /* NULL: none */
	const char *hostname, *machine_id; /* NULL: leave */
	const void *userdata;
	size_t userdata_len;
	const struct proto_nic *nics;
	size_t nnics;
};

struct proto_identity { /* IDENTITY as received */
	struct proto_slice gen;
	uint64_t realtime_ns;
	uint32_t flags, timeout_ms;
	struct proto_slice entropy, name, hostname, machine_id, userdata;
	uint8_t nnics;
	struct proto_nic nics[PROTO_MAX_NICS];
};

static inline bool proto_mac_ok(const uint8_t mac[6])
{
	static const uint8_t zero[6];

	return !(mac[0] & 1) && memcmp(mac, zero, 6) != 0;
}

static inline bool proto_nic_ok(const struct proto_nic *c)
{
	if (!proto_mac_ok(c->driver_mac) || !proto_mac_ok(c->mac) || c->prefix4 > 32 ||
	    c->prefix6 > 128 || c->ndns > PROTO_MAX_DNS)
		return false;
	for (size_t i = 0; i < c->ndns; i++)
		if (c->dns[i].family != 4 && c->dns[i].family != 6)
			return false;
	return true;
}

static inline void proto_put_nic(struct proto_wr *w, const struct proto_nic *c)
{
	if (!proto_nic_ok(c)) {
		w->bad = true;
		return;
	}
	proto_put(w, c->driver_mac, sizeof(c->driver_mac));
	proto_put(w, c->mac, sizeof(c->mac));
	proto_put_u16(w, c->mtu);
	proto_put_u8(w, c->prefix4);
	proto_put(w, c->ip4, sizeof(c->ip4));
	proto_put(w, c->gw4, sizeof(c->gw4));
	proto_put_u8(w, c->prefix6);
	proto_put(w, c->ip6, sizeof(c->ip6));
	proto_put(w, c->gw6, sizeof(c->gw6));
	proto_put_u8(w, c->ndns);
	for (size_t i = 0; i < c->ndns; i++) {
		proto_put_u8(w, c->dns[i].family);
		proto_put(w, c->dns[i].addr, sizeof(c->dns[i].addr));
	}
}

/* n bytes copied; zeros when they are not there. */
static inline void proto_get_bytes(struct proto_rd *r, void *to, size_t n)
{
	struct proto_slice s = proto_get(r, n);

	memset(to, 0, n);
	memcpy(to, s.p, s.len);
}

static inline bool proto_get_nic(struct proto_rd *r, struct proto_nic *c)
{
	memset(c, 0, sizeof(*c));
	proto_get_bytes(r, c->driver_mac, sizeof(c->driver_mac));
	proto_get_bytes(r, c->mac, sizeof(c->mac));
	c->mtu = proto_get_u16(r);
	c->prefix4 = proto_get_u8(r);
	proto_get_bytes(r, c->ip4, sizeof(c->ip4));
	proto_get_bytes(r, c->gw4, sizeof(c->gw4));
	c->prefix6 = proto_get_u8(r);
	proto_get_bytes(r, c->ip6, sizeof(c->ip6));
	proto_get_bytes(r, c->gw6, sizeof(c->gw6));
	c->ndns = proto_get_u8(r);
	for (size_t i = 0; i < c->ndns && i < PROTO_MAX_DNS; i++) {
		c->dns[i].family = proto_get_u8(r);
		proto_get_bytes(r, c->dns[i].addr, sizeof(c->dns[i].addr));
	}
	return !r->bad && proto_nic_ok(c);
}

static inline bool proto_gen_is_zero(const void *gen)
{
	static const uint8_t zero[PROTO_GEN];

	return !memcmp(gen, zero, PROTO_GEN);
}

static inline size_t proto_put_identity(void *buf, size_t cap, const struct proto_identity_args *a)
{
	struct proto_wr w;

	if (a->entropy_len > PROTO_MAX_ENTROPY || a->userdata_len > PROTO_MAX_USERDATA ||
	    a->nnics > PROTO_MAX_NICS)
		return 0;
	proto_begin(&w, buf, cap, PROTO_IDENTITY);
	proto_put(&w, a->gen, PROTO_GEN);
	proto_put_u64(&w, a->realtime_ns);
	proto_put_u32(&w, a->flags);
	proto_put_u32(&w, a->timeout_ms);
	proto_put_b16(&w, a->entropy, a->entropy_len);
	proto_put_s16(&w, a->name);
	proto_put_s16(&w, a->hostname);
	proto_put_s16(&w, a->machine_id);
	proto_put_b16(&w, a->userdata, a->userdata_len);
	proto_put_u8(&w, (uint8_t)a->nnics);
	for (size_t i = 0; i < a->nnics; i++)
		proto_put_nic(&w, &a->nics[i]);
	return proto_end(&w);
}

/* What a name that goes into a line of a file or an environment is made of. */
static inline bool proto_is_word(struct proto_slice s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.p[i] <= ' ' || s.p[i] == '/' || s.p[i] == 127)
			return false;
	return true;
}

static inline bool proto_get_identity(struct proto_rd r, struct proto_identity *x)
{
	x->gen = proto_get(&r, PROTO_GEN);
	x->realtime_ns = proto_get_u64(&r);
	x->flags = proto_get_u32(&r);
	x->timeout_ms = proto_get_u32(&r);
	x->entropy = proto_get_b16(&r, PROTO_MAX_ENTROPY);
	x->name = proto_get_s16(&r, PROTO_MAX_NAME);
	x->hostname = proto_get_s16(&r, PROTO_MAX_HOSTNAME);
	x->machine_id = proto_get_s16(&r, PROTO_MACHINE_ID);
	x->userdata = proto_get_b16(&r, PROTO_MAX_USERDATA);
	x->nnics = proto_get_u8(&r);
	if (x->nnics > PROTO_MAX_NICS)
		return false;
	for (size_t i = 0; i < x->nnics; i++)
		if (!proto_get_nic(&r, &x->nics[i]))
			return false;
	if (!proto_done(&r) || (x->flags & ~PROTO_IDENTITY_ALL) || proto_gen_is_zero(x->gen.p) ||
	    x->realtime_ns > INT64_MAX)
		return false;
	if (x->machine_id.len && x->machine_id.len != PROTO_MACHINE_ID)
		return false;
	for (size_t i = 0; i < x->machine_id.len; i++)
		if (!strchr("0123456789abcdef", x->machine_id.p[i]))
			return false;
	return proto_is_word(x->name) && proto_is_word(x->hostname);
}

struct proto_ack { /* ACK, both ways; the sender's text ends with NUL */
	uint32_t version;
	uint8_t gen[PROTO_GEN];
	uint64_t realtime_ns;
	uint32_t done;
	struct proto_slice text;
};

static inline size_t proto_put_ack(void *buf, size_t cap, const struct proto_ack *a)
{
	struct proto_wr w;

	proto_begin(&w, buf, cap, PROTO_ACK);
	proto_put_u32(&w, a->version);
	proto_put(&w, a->gen, PROTO_GEN);
	proto_put_u64(&w, a->realtime_ns);
	proto_put_u32(&w, a->done);
	proto_put_b16(&w, a->text.p, a->text.len);
	return proto_end(&w);
}

static inline void proto_get_gen(struct proto_rd *r, uint8_t gen[PROTO_GEN])
{
	proto_get_bytes(r, gen, PROTO_GEN);
}

static inline bool proto_get_ack(struct proto_rd r, struct proto_ack *a)
{
	a->version = proto_get_u32(&r);
	proto_get_gen(&r, a->gen);
	a->realtime_ns = proto_get_u64(&r);
	a->done = proto_get_u32(&r);
	a->text = proto_get_s16(&r, PROTO_MAX_TEXT);
	return proto_done(&r);
}

struct proto_error {
	uint32_t err; /* a positive errno */
	uint8_t stage;
	struct proto_slice text;
};

static inline size_t proto_put_error(void *buf, size_t cap, const struct proto_error *e)
{
	struct proto_wr w;

	proto_begin(&w, buf, cap, PROTO_ERROR);
	proto_put_u32(&w, e->err);
	proto_put_u8(&w, e->stage);
	proto_put_b16(&w, e->text.p, e->text.len);
	return proto_end(&w);
}

static inline bool proto_get_error(struct proto_rd r, struct proto_error *e)
{
	e->err = proto_get_u32(&r);
	e->stage = proto_get_u8(&r);
	e->text = proto_get_s16(&r, PROTO_MAX_TEXT);
	return proto_done(&r);
}

struct proto_report {
	uint64_t uptime_ms;
	uint32_t load1_x100, procs, sessions;
	uint64_t exec_count, last_exec_ms, mem_total_bytes, mem_available_bytes;
	bool more; /* from 4 on: what follows was said */
	uint32_t flags;
	uint64_t mem_free_bytes, mem_cached_bytes, swap_total_bytes, swap_used_bytes;
	uint64_t swap_in_pages, oom_kills, cpu_busy_ms, cpu_idle_ms;
	uint32_t psi_some_x100, psi_full_x100;
	uint64_t psi_some_us, psi_full_us;
};

/* Without `more` it is what version 3 sends. */
static inline size_t proto_put_report(void *buf, size_t cap, const struct proto_report *p)
{
	struct proto_wr w;

	proto_begin(&w, buf, cap, PROTO_REPORT);
	proto_put_u64(&w, p->uptime_ms);
	proto_put_u32(&w, p->load1_x100);
	proto_put_u32(&w, p->procs);
	proto_put_u32(&w, p->sessions);
	proto_put_u64(&w, p->exec_count);
	proto_put_u64(&w, p->last_exec_ms);
	proto_put_u64(&w, p->mem_total_bytes);
	proto_put_u64(&w, p->mem_available_bytes);
	if (!p->more)
		return proto_end(&w);
	proto_put_u32(&w, p->flags);
	proto_put_u64(&w, p->mem_free_bytes);
	proto_put_u64(&w, p->mem_cached_bytes);
	proto_put_u64(&w, p->swap_total_bytes);
	proto_put_u64(&w, p->swap_used_bytes);
	proto_put_u64(&w, p->swap_in_pages);
	proto_put_u64(&w, p->oom_kills);
	proto_put_u64(&w, p->cpu_busy_ms);
	proto_put_u64(&w, p->cpu_idle_ms);
	proto_put_u32(&w, p->psi_some_x100);
	proto_put_u32(&w, p->psi_full_x100);
	proto_put_u64(&w, p->psi_some_us);
	proto_put_u64(&w, p->psi_full_us);
	return proto_end(&w);
}

static inline bool proto_get_report(struct proto_rd r, struct proto_report *p)
{
	*p = (struct proto_report){ 0 };
	p->uptime_ms = proto_get_u64(&r);
	p->load1_x100 = proto_get_u32(&r);
	p->procs = proto_get_u32(&r);
	p->sessions = proto_get_u32(&r);
	p->exec_count = proto_get_u64(&r);
	p->last_exec_ms = proto_get_u64(&r);
	p->mem_total_bytes = proto_get_u64(&r);
	p->mem_available_bytes = proto_get_u64(&r);
	p->more = r.left;
	if (!p->more)
		return proto_done(&r);
	p->flags = proto_get_u32(&r);
	p->mem_free_bytes = proto_get_u64(&r);
	p->mem_cached_bytes = proto_get_u64(&r);
	p->swap_total_bytes = proto_get_u64(&r);
	p->swap_used_bytes = proto_get_u64(&r);
	p->swap_in_pages = proto_get_u64(&r);
	p->oom_kills = proto_get_u64(&r);
	p->cpu_busy_ms = proto_get_u64(&r);
	p->cpu_idle_ms = proto_get_u64(&r);
	p->psi_some_x100 = proto_get_u32(&r);
	p->psi_full_x100 = proto_get_u32(&r);
	p->psi_some_us = proto_get_u64(&r);
	p->psi_full_us = proto_get_u64(&r);
	return proto_done(&r) && !(p->flags & ~PROTO_REPORT_ALL);
}

struct proto_ready {
	uint32_t version;
	uint8_t gen[PROTO_GEN];
};

static inline size_t proto_put_ready(void *buf, size_t cap, const struct proto_ready *y)
{
	struct proto_wr w;

	proto_begin(&w, buf, cap, PROTO_READY);
	proto_put_u32(&w, y->version);
	proto_put(&w, y->gen, PROTO_GEN);
	return proto_end(&w);
}

static inline bool proto_get_ready(struct proto_rd r, struct proto_ready *y)
{
	y->version = proto_get_u32(&r);
	proto_get_gen(&r, y->gen);
	return proto_done(&r);
}

/* Payloads of at most two integers: `a` of `abytes`, then `b` of `bbytes` (0: there is no b). */
static inline size_t proto_put_two(void *buf, size_t cap, uint8_t type, uint32_t a, size_t abytes,
				   uint32_t b, size_t bbytes)
{
	struct proto_wr w;

	proto_begin(&w, buf, cap, type);
	proto_put_int(&w, a, abytes);
	proto_put_int(&w, b, bbytes);
	return proto_end(&w);
}

static inline bool proto_get_two(struct proto_rd r, uint32_t *a, size_t abytes, uint32_t *b,
				 size_t bbytes)
{
	uint32_t x = (uint32_t)proto_get_int(&r, abytes), y = (uint32_t)proto_get_int(&r, bbytes);

	if (a)
		*a = x;
	if (b)
		*b = y;
	return proto_done(&r);
}

/* ACTIVITY, PING, STDIN_EOF. */
static inline size_t proto_put_empty(void *buf, size_t cap, uint8_t type)
{
	return proto_put_two(buf, cap, type, 0, 0, 0, 0);
}

static inline size_t proto_put_settle(void *buf, size_t cap, uint32_t flags, uint32_t timeout_ms)
{
	return proto_put_two(buf, cap, PROTO_SETTLE, flags, 4, timeout_ms, 4);
}

static inline bool proto_get_settle(struct proto_rd r, uint32_t *flags, uint32_t *timeout_ms)
{
	return proto_get_two(r, flags, 4, timeout_ms, 4) && !(*flags & ~PROTO_SETTLE_ALL);
}

static inline size_t proto_put_shutdown(void *buf, size_t cap, uint32_t mode, uint32_t grace_ms)
{
	return proto_put_two(buf, cap, PROTO_SHUTDOWN, mode, 1, grace_ms, 4);
}

static inline bool proto_get_shutdown(struct proto_rd r, uint32_t *mode, uint32_t *grace_ms)
{
	return proto_get_two(r, mode, 1, grace_ms, 4) && *mode <= PROTO_SHUTDOWN_REBOOT;
}

static inline size_t proto_put_resize(void *buf, size_t cap, uint16_t rows, uint16_t cols)
{
	return proto_put_two(buf, cap, PROTO_RESIZE, rows, 2, cols, 2);
}

static inline bool proto_get_resize(struct proto_rd r, uint32_t *rows, uint32_t *cols)
{
	return proto_get_two(r, rows, 2, cols, 2);
}

static inline size_t proto_put_signal(void *buf, size_t cap, uint8_t number)
{
	return proto_put_two(buf, cap, PROTO_SIGNAL, number, 1, 0, 0);
}

static inline bool proto_get_signal(struct proto_rd r, uint32_t *number)
{
	return proto_get_two(r, number, 1, NULL, 0) && *number >= 1 && *number <= 64;
}

/* STARTED and STDIN_ACK. */
static inline size_t proto_put_one_u32(void *buf, size_t cap, uint8_t type, uint32_t v)
{
	return proto_put_two(buf, cap, type, v, 4, 0, 0);
}

static inline bool proto_get_one_u32(struct proto_rd r, uint32_t *v)
{
	return proto_get_two(r, v, 4, NULL, 0);
}

static inline size_t proto_put_exit(void *buf, size_t cap, uint8_t kind, uint32_t value)
{
	return proto_put_two(buf, cap, PROTO_EXIT, kind, 1, value, 4);
}

static inline bool proto_get_exit(struct proto_rd r, uint32_t *kind, uint32_t *value)
{
	return proto_get_two(r, kind, 1, value, 4) && *kind <= PROTO_EXIT_TIMEOUT;
}

#endif
