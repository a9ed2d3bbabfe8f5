/* SPDX-License-Identifier: MIT */
/*
 * The calls that can fail: each asks due() and hands on to the next definition, which is a
 * sanitizer's or the C library's. See inject.h. Any thread.
 */
#undef _FORTIFY_SOURCE /* its inlines have the names that we define */
#include "tests/inject/inject.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

static struct {
	unsigned int left, left_child; /* calls until the one that fails; 0: not armed */
	bool failed;
	struct injected *out, *out_child;
} inject;

static __thread unsigned int held;

void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));

static bool due(const char *call, unsigned long arg)
{
	struct injected *o = inject.out;
	unsigned int n = __atomic_load_n(&inject.left, __ATOMIC_RELAXED);

	if (!n || held)
		return false;
	while (!__atomic_compare_exchange_n(&inject.left, &n, n - 1, false, __ATOMIC_SEQ_CST,
					    __ATOMIC_RELAXED))
		if (!n)
			return false;
	if (n > 1)
		return false;
	inject.failed = true;
	o->arg = arg;
	o->nr_frames = backtrace(o->frames, INJECT_FRAMES);
	o->call = call;
	return true;
}

/* What the dynamic linker allocates for backtrace(3) looks lost to LeakSanitizer: ours is in
 * between. */
void inject_init(void)
{
	void *frame[4];

	if (__lsan_disable)
		__lsan_disable();
	backtrace(frame, 4);
	if (__lsan_enable)
		__lsan_enable();
}

void inject_arm(unsigned int nth, struct injected *out)
{
	inject.failed = false;
	inject.out = out;
	__atomic_store_n(&inject.left, nth, __ATOMIC_SEQ_CST);
}

void inject_arm_child(unsigned int nth, struct injected *out)
{
	inject.out_child = out;
	inject.left_child = nth;
}

bool inject_disarm(void)
{
	__atomic_store_n(&inject.left, 0, __ATOMIC_SEQ_CST);
	return inject.failed;
}

void inject_hold(void)
{
	held++;
}

void inject_release(void)
{
	held--;
}

/* The definition behind ours. Found at the first call: before that nothing of this file has run. */
#define NEXT(ret, name, ...)                                                                       \
	static ret (*next)(__VA_ARGS__);                                                           \
	if (!__atomic_load_n(&next, __ATOMIC_RELAXED))                                             \
	__atomic_store_n(&next, (ret(*)(__VA_ARGS__))(uintptr_t)dlsym(RTLD_NEXT, #name),           \
			 __ATOMIC_RELAXED)

#define FAIL(arg, errnum, value)                                                                   \
	do {                                                                                       \
		if (due(__func__, (unsigned long)(arg))) {                                         \
			errno = (errnum);                                                          \
			return value;                                                              \
		}                                                                                  \
	} while (0)

/* ---- memory ---- */

void *malloc(size_t n)
{
	NEXT(void *, malloc, size_t);
	FAIL(n, ENOMEM, NULL);
	return next(n);
}

void *calloc(size_t n, size_t size)
{
	NEXT(void *, calloc, size_t, size_t);
	FAIL(n * size, ENOMEM, NULL);
	return next(n, size);
}

void *realloc(void *p, size_t n)
{
	NEXT(void *, realloc, void *, size_t);
	FAIL(n, ENOMEM, NULL);
	return next(p, n);
}

/* The C library's come by malloc too and count twice; a sanitizer's do not. */
char *strdup(const char *s)
{
	NEXT(char *, strdup, const char *);
	FAIL(0, ENOMEM, NULL);
	return next(s);
}

char *strndup(const char *s, size_t n)
{
	NEXT(char *, strndup, const char *, size_t);
	FAIL(0, ENOMEM, NULL);
	return next(s, n);
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
	NEXT(void *, mmap, void *, size_t, int, int, int, off_t);
	FAIL(n, ENOMEM, MAP_FAILED);
	return next(at, n, prot, flags, fd, off);
}

/* ---- files ---- */

static int mode_of(int flags, va_list ap)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, int) : 0;
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	int mode;
	NEXT(int, open, const char *, int, ...);
	FAIL(0, EMFILE, -1);
	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return next(path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	int mode;
	NEXT(int, openat, int, const char *, int, ...);
	FAIL(0, EMFILE, -1);
	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return next(dir, path, flags, mode);
}

/* What is opened inside of the C library is out of our reach. */
FILE *fopen(const char *path, const char *mode)
{
	NEXT(FILE *, fopen, const char *, const char *);
	FAIL(0, EMFILE, NULL);
	return next(path, mode);
}

DIR *opendir(const char *path)
{
	NEXT(DIR *, opendir, const char *);
	FAIL(0, EMFILE, NULL);
	return next(path);
}

int ioctl(int fd, unsigned long nr, ...)
{
	va_list ap;
	void *arg;
	NEXT(int, ioctl, int, unsigned long, ...);
	if (nr != KVM_RUN)
		FAIL(nr, EIO, -1);
	va_start(ap, nr);
	arg = va_arg(ap, void *);
	va_end(ap);
	return next(fd, nr, arg);
}

/* ---- other descriptors ---- */

int eventfd(unsigned int v, int flags)
{
	NEXT(int, eventfd, unsigned int, int);
	FAIL(0, EMFILE, -1);
	return next(v, flags);
}

int epoll_create1(int flags)
{
	NEXT(int, epoll_create1, int);
	FAIL(0, EMFILE, -1);
	return next(flags);
}

int epoll_ctl(int ep, int op, int fd, struct epoll_event *ev)
{
	NEXT(int, epoll_ctl, int, int, int, struct epoll_event *);
	if (op != EPOLL_CTL_DEL)
		FAIL(op, ENOSPC, -1);
	return next(ep, op, fd, ev);
}

int timerfd_create(clockid_t clock, int flags)
{
	NEXT(int, timerfd_create, clockid_t, int);
	FAIL(0, EMFILE, -1);
	return next(clock, flags);
}

int memfd_create(const char *name, unsigned int flags)
{
	NEXT(int, memfd_create, const char *, unsigned int);
	FAIL(0, EMFILE, -1);
	return next(name, flags);
}

int socket(int domain, int type, int proto)
{
	NEXT(int, socket, int, int, int);
	FAIL(0, EMFILE, -1);
	return next(domain, type, proto);
}

int socketpair(int domain, int type, int proto, int fd[2])
{
	NEXT(int, socketpair, int, int, int, int *);
	FAIL(0, EMFILE, -1);
	return next(domain, type, proto, fd);
}

int pipe2(int fd[2], int flags)
{
	NEXT(int, pipe2, int *, int);
	FAIL(0, EMFILE, -1);
	return next(fd, flags);
}

int dup(int fd)
{
	NEXT(int, dup, int);
	FAIL(0, EMFILE, -1);
	return next(fd);
}

int fcntl(int fd, int cmd, ...)
{
	va_list ap;
	void *arg;
	NEXT(int, fcntl, int, int, ...);
	if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)
		FAIL(0, EMFILE, -1);
	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	return next(fd, cmd, arg);
}

long syscall(long nr, ...)
{
	long a[6];
	va_list ap;
	NEXT(long, syscall, long, ...);
	if (nr == SYS_pidfd_open)
		FAIL(nr, EMFILE, -1);
	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	return next(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* liburing makes its system calls itself; its functions return -errno. */
int io_uring_queue_init_params(unsigned int n, struct io_uring *ring, struct io_uring_params *p)
{
	NEXT(int, io_uring_queue_init_params, unsigned int, struct io_uring *,
	     struct io_uring_params *);
	FAIL(n, 0, -ENOMEM);
	return next(n, ring, p);
}

int io_uring_register_eventfd(struct io_uring *ring, int fd)
{
	NEXT(int, io_uring_register_eventfd, struct io_uring *, int);
	FAIL(0, 0, -ENOMEM);
	return next(ring, fd);
}

int io_uring_register(unsigned int fd, unsigned int op, const void *arg, unsigned int n)
{
	NEXT(int, io_uring_register, unsigned int, unsigned int, const void *, unsigned int);
	FAIL(op, 0, -ENOMEM);
	return next(fd, op, arg, n);
}

/* ---- processes and threads ---- */

int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	NEXT(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
	FAIL(0, 0, EAGAIN);
	return next(t, attr, fn, arg);
}

/* AddressSanitizer's, on each new thread, and it ends the process without. */
int pthread_getattr_np(pthread_t t, pthread_attr_t *attr)
{
	int ret;
	NEXT(int, pthread_getattr_np, pthread_t, pthread_attr_t *);
	inject_hold();
	ret = next(t, attr);
	inject_release();
	return ret;
}

pid_t fork(void)
{
	pid_t pid;
	NEXT(pid_t, fork, void);
	FAIL(0, EAGAIN, -1);
	pid = next();
	if (!pid) {
		inject_disarm();
		if (inject.left_child)
			inject_arm(inject.left_child, inject.out_child);
	}
	inject.left_child = 0;
	return pid;
}
