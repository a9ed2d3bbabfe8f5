/* SPDX-License-Identifier: MIT */
/*
 * Inside src/network: what its files share.
 *
 * STATE/networks/NAME.json      a definition (define.c)
 * RUN/networks/NAME/            what is on the host of it (netdir.c):
 *     up.json                   resolvers that the rules let through; there while rules are
 *     leases/SLOT               locked by whoever has the slot: a VM process, so it is never read
 *     given/SLOT                what the slot was given: VM, TAP, addresses, ports
 *     ready/SLOT                the slot's TAP waits, made ahead, for the first who locks its lease
 *     last/VM, last/.SLOT       links to the slot that VM had last, and back
 *     next                      where the search for a free slot begins
 *     hold                      locked (shared) by who wants the network kept (network_hold)
 * /run/clone-network/NS         the host lock of a network namespace, and in it what we changed of
 *                               the host's settings (hostlock.c)
 *
 * Locks are fcntl's of open file descriptions: they live as long as any copy of the descriptor, in
 * whatever process, and can be asked about without being taken.
 *
 * Whoever changes rules, settings or the set of leases holds the host lock; taking a TAP that waits
 * needs only its lease.
 */
#ifndef CLONE_NETWORK_PRIVATE_H
#define CLONE_NETWORK_PRIVATE_H

#include "base/buf.h"
#include "base/err.h"
#include "guest/netlink.h"
#include "network/network.h"

#define SLOT_FIRST 2u
#define SLOT_MAX 65535u
#define TAP_PREFIX "clone-" /* also in rules.c */
#define VM_NAME_MAX 64
#define ADDR_TEXT 64 /* an address with a prefix as text */

/* ---- text.c: addresses and names as text ---- */

void ip4_text(const uint8_t a[4], char *buf, size_t n);
void ip6_text(const uint8_t a[16], char *buf, size_t n);
/* "A/N"; the address with nothing behind the prefix. -EINVAL. */
int cidr_parse(int family, const char *s, uint8_t *a, uint8_t *prefix, struct err *e);
bool prefix_overlap(const uint8_t *a, unsigned int na, const uint8_t *b, unsigned int nb);
bool if_name_ok(const char *name);

/* ---- define.c ---- */

json_t *network_json(const struct network *nw); /* the definition; NULL without memory */
int network_from_json(const json_t *j, const char *name, struct network *out, struct err *e);

/* ---- resolv.c: resolvers ---- */

int dns_parse(const char *list, struct nic_dns *d, uint8_t *n, struct err *e);
/* The host's own, without those that only it can reach; 0: there is none such. */
uint8_t dns_of_host(struct nic_dns d[NIC_DNS_MAX]);
void dns_text(const struct nic_dns *d, char *buf, size_t n);

/* ---- subnet.c: which addresses are free ---- */

/* Sets nw's subnets from what was asked, or chooses; `others`: networks that there are. */
int subnets_choose(struct network *nw, const struct network_options *o,
		   const struct network *others, size_t n_others, struct err *e);
/* Addresses of a slot; false: the network has none such. */
bool slot_ip4(const struct network *nw, unsigned int slot, uint8_t ip[4]);
void slot_ip6(const struct network *nw, unsigned int slot, uint8_t ip[16]);
unsigned int slot_last(const struct network *nw);
/* 0: the address is not a guest's in this subnet. */
unsigned int slot_of_ip4(const struct network *nw, const uint8_t ip[4]);
void gateway_ip4(const struct network *nw, uint8_t ip[4]);

/* ---- rtnl.c: the kernel by netlink ---- */

int nl_socket(int protocol, struct err *e);
/*
 * Sends what m holds and waits for the answer of its last message, which must ask for one
 * (NLM_F_ACK); others answer only when they fail. The first failure's -errno, with the kernel's own
 * words where it has any; those in `ignore` (0: none) are none.
 */
int nl_run(int sock, const struct nl_msg *m, int ignore, const char *what, struct err *e);
/* Each message of a dump's answer goes to take(arg, header, body, n); it returns 0 to go on. */
int nl_dump(int sock, const struct nl_msg *m,
	    int (*take)(void *arg, const struct nlmsghdr *h, const uint8_t *body, size_t n),
	    void *arg, struct err *e);
/* Does any route of the host, or address, lie in a/n or hold it? Writes which. Errors as -errno. */
int host_overlap(int family, const uint8_t *a, unsigned int n, char *which, size_t n_which,
		 struct err *e);
bool host_has_default6(void);
bool host_has_ip6(void);
bool may_admin(void);
int need_admin(struct err *e);

/* ---- netdir.c: RUN/networks/NAME and leases ---- */

struct lease {
	unsigned int slot;
	int fd;	    /* locked; -1 */
	bool fresh; /* nobody had it: there is nothing to remove of it */
	char vm[VM_NAME_MAX + 1];
	char tap[NETWORK_TAP_MAX];
	uint8_t mac[NIC_MAC];
	uint8_t ip4[4], ip6[16]; /* zero: none */
	struct network_publish publish[NETWORK_PUBLISH_MAX];
	size_t nr_publish;
};

struct netdir {
	int fd, leases, given, ready, last;
};

void netdir_init(struct netdir *d);
/* make: when it is missing, else -ENOENT then. */
int netdir_open(const char *name, bool make, struct netdir *d, struct err *e);
void netdir_close(struct netdir *d);
/* Removes the directory with all that is in it but held leases. Under the host lock. */
void netdir_remove(const char *name);
/* Names in RUN/networks; n 0 and no error when there is none. */
int netdir_list(char ***names, size_t *n);

/* -EAGAIN: somebody has it. make: also when there is none; else -ENOENT. l->fd is the lock. */
int lease_lock(const struct netdir *d, unsigned int slot, bool make, struct lease *l);
/* What it was given, locked or not; fields stay zero when that makes no sense. */
void lease_read(const struct network *nw, const struct netdir *d, unsigned int slot,
		struct lease *l);
/* In one step: a reader sees all of the old one or of the new one. */
int lease_write(const struct netdir *d, const struct lease *l, struct err *e);
void slot_name(unsigned int slot, char buf[8]);
/* Reads it, whoever has it; does anybody? */
bool lease_peek(const struct network *nw, const struct netdir *d, unsigned int slot,
		struct lease *l);
bool lease_held(const struct netdir *d, unsigned int slot);
/* Slots that have a lease file (or wait), ascending; free it. */
int lease_slots(int dir, unsigned int **slots, size_t *n, struct err *e);
bool ready_is(const struct netdir *d, unsigned int slot);
/* False: it was not, or another was faster. */
bool ready_take(const struct netdir *d, unsigned int slot);
int ready_put(const struct netdir *d, unsigned int slot, struct err *e);
/* Forgets a lease that is locked by us: the file goes, then the lock. */
void lease_drop(const struct netdir *d, struct lease *l);
void lease_close(struct lease *l); /* the lock only, if nobody else has it */
/* What a slot's NIC has when nothing else was asked for. */
void lease_defaults(const struct network *nw, unsigned int slot, struct lease *l);
unsigned int last_slot(const struct netdir *d, const char *vm); /* 0: unknown */
void last_remember(const struct netdir *d, const char *vm, unsigned int slot);
unsigned int next_slot(const struct netdir *d);
void next_set(const struct netdir *d, unsigned int slot);

/* ---- hostlock.c ---- */

struct hostlock {
	int fd;
	json_t *rec; /* what we changed of the host */
};

/* Its file: of this network namespace. */
int hostlock_path(char *buf, size_t n, struct err *e);
/* Waits for it. -EPERM when somebody else's file is in its place. */
int hostlock_take(struct hostlock *l, struct err *e);
/* Writes the record back. */
int hostlock_save(const struct hostlock *l, struct err *e);
void hostlock_drop(struct hostlock *l);
#define cleanup_hostlock __attribute__((cleanup(hostlock_drop)))

/* ---- forwarding.c ---- */

/* Notes what is about to be changed. */
int host_record(struct hostlock *l, const char *key, json_t *value, struct err *e);
bool forwarding_is_on(void);
int forwarding_on(struct hostlock *l, const struct network *nw, bool publish, struct err *e);
/* As far as it is still as we left it. */
void forwarding_off(struct hostlock *l);

/* ---- host.c: what networks do to a host that has others on it ---- */

/* Turns on what the network needs (publish: it has published ports) and is off, and says so in the
 * record; first: and looks after others' tables, which takes two runs of nft. */
int host_prepare(struct hostlock *l, const struct network *nw, bool publish, bool first,
		 struct err *e);
/* No network of ours is up any more: everything as it was, as far as it is still as we left it. */
void host_restore(struct hostlock *l);

/* ---- rules.c: our tables as text for nft ---- */

#define RULES_MAX (32u << 20)
enum rules_verb { RULES_ADD, RULES_DELETE };

void rules_tables(struct wbuf *w);
void rules_no_tables(struct wbuf *w);
/* A network's own: what its guests may reach. dns: the resolvers in force. */
void rules_network(struct wbuf *w, enum rules_verb v, const struct network *nw,
		   const struct nic_dns *dns, uint8_t nr_dns);
void rules_lease(struct wbuf *w, enum rules_verb v, const struct network *nw,
		 const struct lease *l);
/* Off, whether it is there or not. */
void rules_lease_remove(struct wbuf *w, const struct network *nw, const struct lease *l);

/* ---- nft.c: the program, and the few questions that it is too slow for ---- */

/* Ends the text and applies it, all or nothing. -ENOENT: nftables is not installed. */
int nft_apply(struct wbuf *w, struct err *e);
bool nft_network_there(uint16_t id);
bool nft_tables_there(void);
/* Any network but this one, of anybody. */
bool nft_other_network(uint16_t id);
int nft_json(const char *const *argv, json_t **out, struct err *e);

/* ---- up.c: a network as a whole; all but network_is_up and up_read under the host lock ---- */

/* What is in place. */
struct up {
	struct network nw; /* no name: nothing */
	uint8_t nr_dns;
	struct nic_dns dns[NIC_DNS_MAX];
};

int up_read(const struct netdir *d, const char *name, struct up *u);
/* Has the rules of the network, resolvers as they are now, and the host's settings in place,
 * whoever flushed them. -EBUSY: another run directory has it. */
int network_up(struct hostlock *l, const struct network *nw, const struct netdir *d, bool publish,
	       struct up *u, struct err *e);
/* Is no other network up, from whatever run directory? */
bool network_is_last(const struct hostlock *l, const struct network *nw);
/* All is in place, without asking nft. */
bool network_is_up(const struct network *nw, const struct netdir *d, struct up *u);
/* Removes what dead holders of leases left. */
int network_sweep_leases(const struct network *nw, const struct netdir *d, struct err *e);
/* The same, and when no lease is held all of the network. */
void network_sweep_one(struct hostlock *l, const char *name, const struct netdir *d);
/* All of it. -EBUSY: says who is on it. */
int network_down(struct hostlock *l, const struct network *nw, const struct netdir *d,
		 struct err *e);

/* ---- sweep.c ---- */

struct leases {
	struct lease *v;
	size_t n;
};

int leases_add(struct leases *s, const struct lease *l, struct err *e);
bool hold_is(const struct netdir *d);

/* ---- tap.c ---- */

/* Makes the TAP, or opens one that waits, with `queues` descriptors. -EPERM, -ENOENT (modprobe). */
int tap_open(const char *name, unsigned int queues, int *fd, struct err *e);
int tap_persist(int fd, bool on, struct err *e);
/* Addresses, routes and neighbours of n TAPs that are open, in one go. */
int taps_setup(const struct network *nw, const struct lease *l, size_t n, struct err *e);
bool tap_is_persistent(int fd);
void tap_delete(const char *name);
/* All of the network's, in one go: each alone waits for the kernel's other processors. */
void taps_delete_all(const struct network *nw);
/* A packet socket on it, which no filter guards yet. */
int tap_packet_socket(const char *name, struct err *e);

/* ---- bridge.c ---- */

/* -ENODEV: no bridge of that name. mtu may be NULL. */
int bridge_check(const char *name, unsigned int *mtu, struct err *e);
/* The length of its own address' prefix, and the way out over it (zero: none). */
bool bridge_prefix(const char *name, uint8_t *prefix, uint8_t gw[4]);

/* ---- publish.c ---- */

/* Any that holds the port of the host, in any network of RUN; false: unknown. */
bool publish_owner(const struct network_publish *p, char *vm, size_t n);
/* Holds the host's ports for a lease. -EADDRINUSE says who has it. */
int publish_hold(const struct network_want *w, struct network_port *p, struct err *e);

/* ---- attach.c ---- */

/* Takes a free slot, beginning where the last search ended. -ENOSPC. */
int slot_take(const struct network *nw, const struct netdir *d, struct lease *l, struct err *e);

/* ---- make.c ---- */

/* Leases that are locked become TAPs with rules: n, in one go. fd[i]: as many as queues[i]. Under
 * the host lock. */
struct making {
	const struct network *nw;
	const struct netdir *d;
	struct lease *l;
	int (*fd)[NETWORK_QUEUES_MAX]; /* -1 before and after a failure */
	unsigned int *queues;
	size_t n;
};
int leases_make(const struct making *m, struct err *e);

#endif
