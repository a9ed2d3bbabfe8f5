/* SPDX-License-Identifier: MIT */
/*
 * The serial port as drivers probe it, its interrupts as the IOAPIC of a real VM sees them, and its
 * console: ring, clients, log.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>
#include <event2/event.h>

#include "base/util.h"
#include "device/bus.h"
#include "device/console.h"
#include "device/serial.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "kvm/kvm.h"
#include "kvm/state.h"
#include "x86/platform.h"

struct box {
	struct machine m;
	struct device *d;
	pthread_mutex_t lock;
	char path[64];
	int log_fd;
};

static void box_make(struct box *b)
{
	struct identity id = { 0 };
	int sys = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct err e;
	int fd;

	memset(b, 0, sizeof(*b));
	pthread_mutex_init(&b->lock, NULL);
	b->m.lock = &b->lock;
	if (sys >= 0) {
		assert_int_equal(kvm_create(sys, &b->m.kvm, &e), 0);
		assert_int_equal(kvm_create_irqchip(b->m.kvm, false, &e), 0);
	}
	assert_int_equal(loop_create(&b->lock, &b->m.loop, &e), 0);
	assert_int_equal(fdtab_create(&b->m.fds, &e), 0);
	assert_int_equal(grants_create(b->m.fds, &b->m.grants, &e), 0);
	assert_int_equal(bus_create("pio", &b->m.pio, &e), 0);
	snprintf(b->path, sizeof(b->path), "/tmp/test_serial.%d", getpid());
	unlink(b->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", b->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(grants_put(b->m.grants, "console", fd, &e), 0);
	b->log_fd = memfd_create("log", MFD_CLOEXEC);
	assert_int_equal(grants_put(b->m.grants, "console-log", dup(b->log_fd), &e), 0);
	assert_int_equal(serial_class.create(&b->m, "serial", NULL, &b->d, &e), 0);
	assert_int_equal(serial_class.adopt(b->d, &id, &e), 0);
	if (b->m.kvm)
		serial_class.resume(b->d);
}

static void box_free(struct box *b)
{
	serial_class.destroy(b->d);
	grants_destroy(b->m.grants);
	fdtab_destroy(b->m.fds);
	loop_destroy(b->m.loop);
	bus_destroy(b->m.pio);
	if (b->m.kvm)
		kvm_destroy(b->m.kvm);
	unlink(b->path);
	close(b->log_fd);
}

static void out(struct box *b, unsigned int reg, uint8_t v)
{
	bus_write(b->m.pio, PLAT_COM1_PORT + reg, &v, 1);
}

static uint8_t in(struct box *b, unsigned int reg)
{
	uint8_t v = 0;

	bus_read(b->m.pio, PLAT_COM1_PORT + reg, &v, 1);
	return v;
}

/* Lets main's callbacks run until none is ready. */
static void spin(struct box *b)
{
	for (int i = 0; i < 4; i++) {
		event_base_loop(loop_base(b->m.loop), EVLOOP_NONBLOCK);
		if (i == 1)
			usleep(5000); /* the console gathers for 2 ms: its timer is due now, however
					 late */
	}
}

static int client(struct box *b)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", b->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	spin(b);
	return fd;
}

static void say(struct box *b, const char *s)
{
	while (*s)
		out(b, 0, (uint8_t)*s++);
}

static void assert_reads(int fd, const char *want)
{
	char buf[256] = { 0 };
	ssize_t r = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	assert_int_equal(r, (ssize_t)strlen(want));
	assert_string_equal(buf, want);
}

/* Linux's autoconfig(): scratch, loopback, IIR after FCR, IER's bits. */
static void test_serial__probes_as_16550a(void **st)
{
	struct box b;

	(void)st;
	box_make(&b);
	out(&b, 1, 0);
	assert_int_equal(in(&b, 1), 0);
	out(&b, 1, 0x0f);
	assert_int_equal(in(&b, 1), 0x0f);
	out(&b, 1, 0);
	out(&b, 4, 0x10 | 0x0a);
	assert_int_equal(in(&b, 6) & 0xf0, 0x90);
	out(&b, 4, 0);
	assert_int_equal(in(&b, 6) & 0xf0, 0xb0);
	out(&b, 7, 0x5a);
	assert_int_equal(in(&b, 7), 0x5a);
	out(&b, 2, 1);
	assert_int_equal(in(&b, 2) >> 6, 3);
	out(&b, 2, 0);
	assert_int_equal(in(&b, 2) >> 6, 0);
	/* Not an XScale UART. */
	out(&b, 1, 0x40);
	assert_int_equal(in(&b, 1), 0);
	/* Divisor latch and IER are apart. */
	out(&b, 3, 0x83);
	out(&b, 0, 1);
	out(&b, 1, 2);
	out(&b, 3, 3);
	assert_int_equal(in(&b, 1), 0);
	out(&b, 3, 0x83);
	assert_int_equal(in(&b, 0), 1);
	assert_int_equal(in(&b, 1), 2);
	box_free(&b);
}

/* Linux's tests for UART_BUG_THRE and UART_BUG_TXEN at start-up. */
static void test_serial__asking_for_empty_answers_each_time(void **st)
{
	struct box b;

	(void)st;
	box_make(&b);
	out(&b, 2, 1);
	for (int i = 0; i < 3; i++) {
		out(&b, 1, 2);
		assert_int_equal(in(&b, 5), 0x60);
		assert_int_equal(in(&b, 2), 0xc2);
		assert_int_equal(in(&b, 2), 0xc1); /* reading it was the acknowledgement */
		out(&b, 1, 0);
	}
	out(&b, 1, 2);
	(void)in(&b, 2);
	out(&b, 0, 'x');
	assert_int_equal(in(&b, 2), 0xc2);
	box_free(&b);
}

static void test_serial__loopback_receives_what_it_sends(void **st)
{
	struct box b;
	int fd;

	(void)st;
	box_make(&b);
	out(&b, 2, 1);
	out(&b, 4, 0x10);
	for (int i = 0; i < 17; i++)
		out(&b, 0, (uint8_t)i);
	assert_int_equal(in(&b, 5), 0x63); /* data, and the 17th overran */
	assert_int_equal(in(&b, 5), 0x61);
	for (int i = 0; i < 16; i++)
		assert_int_equal(in(&b, 0), i);
	assert_int_equal(in(&b, 5), 0x60);
	fd = client(&b);
	assert_int_equal(recv(fd, &(char){ 0 }, 1, MSG_DONTWAIT), -1);
	close(fd);
	box_free(&b);
}

static bool pending_in_ioapic(struct box *b)
{
	struct chip_state c;

	assert_int_equal(kvm_chip_save(b->m.kvm, &c, NULL), 0);
	return c.ioapic.irr & (1u << PLAT_COM1_GSI);
}

static void test_serial__interrupts_by_priority(void **st)
{
	struct box b;
	int fd;

	(void)st;
	box_make(&b);
	if (!b.m.kvm) {
		box_free(&b);
		skip();
	}
	out(&b, 2, 0x41); /* four bytes */
	(void)in(&b, 6);
	out(&b, 1, 0x0f);
	assert_true(pending_in_ioapic(&b));
	assert_int_equal(in(&b, 2), 0xc2);
	assert_false(pending_in_ioapic(&b));
	fd = client(&b);
	assert_int_equal(send(fd, "abc", 3, 0), 3);
	spin(&b);
	assert_true(pending_in_ioapic(&b));
	assert_int_equal(in(&b, 2), 0xcc); /* fewer than four: timeout */
	assert_int_equal(send(fd, "def", 3, 0), 3);
	spin(&b);
	assert_int_equal(in(&b, 2), 0xc4);
	for (const char *p = "abcdef"; *p; p++)
		assert_int_equal(in(&b, 0), *p);
	assert_int_equal(in(&b, 2), 0xc1);
	assert_false(pending_in_ioapic(&b));
	close(fd);
	box_free(&b);
}

static void test_serial__typing_is_held_back_not_lost(void **st)
{
	enum { N = 40000 };
	struct box b;
	int fd, sent = 0, got = 0;

	(void)st;
	box_make(&b);
	if (!b.m.kvm) {
		box_free(&b);
		skip();
	}
	out(&b, 2, 1);
	fd = client(&b);
	while (got < N) {
		while (sent < N) {
			uint8_t v = (uint8_t)(sent % 251);

			if (send(fd, &v, 1, MSG_DONTWAIT) != 1)
				break;
			sent++;
		}
		spin(&b);
		while (in(&b, 5) & 1)
			assert_int_equal(in(&b, 0), got++ % 251);
	}
	assert_int_equal(got, N);
	close(fd);
	box_free(&b);
}

static void test_console__newcomer_sees_the_last_output(void **st)
{
	struct box b;
	int fd, fd2;

	(void)st;
	box_make(&b);
	say(&b, "hello ");
	fd = client(&b);
	assert_reads(fd, "hello ");
	say(&b, "world");
	spin(&b);
	assert_reads(fd, "world");
	fd2 = client(&b);
	assert_reads(fd2, "hello world");
	close(fd);
	spin(&b);
	say(&b, "!");
	spin(&b);
	assert_reads(fd2, "!");
	close(fd2);
	box_free(&b);
}

static void test_console__ninth_client_is_told(void **st)
{
	int fd[CONSOLE_CLIENTS_MAX + 1];
	struct box b;

	(void)st;
	box_make(&b);
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		fd[i] = client(&b);
	assert_reads(fd[CONSOLE_CLIENTS_MAX], "console: too many clients\r\n");
	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
	spin(&b);
	box_free(&b);
}

static void test_console__log_has_all_then_only_the_newest(void **st)
{
	struct stat s;
	char tail[8] = { 0 };
	struct box b;

	(void)st;
	box_make(&b);
	/* More than the ring without main ever running: nothing is lost. */
	for (uint32_t i = 0; i < 3 * CONSOLE_RING_BYTES; i++)
		out(&b, 0, (uint8_t)('a' + i % 26));
	serial_flush(b.d);
	assert_int_equal(fstat(b.log_fd, &s), 0);
	assert_int_equal(s.st_size, 3 * CONSOLE_RING_BYTES);
	for (uint32_t i = 0; i < 3 * CONSOLE_RING_BYTES; i += 4999) {
		char c;

		assert_int_equal(pread(b.log_fd, &c, 1, i), 1);
		assert_int_equal(c, 'a' + i % 26);
	}
	for (uint32_t i = 0; i < CONSOLE_LOG_BYTES + (2u << 20); i++)
		out(&b, 0, '.');
	say(&b, "the end");
	spin(&b);
	assert_int_equal(fstat(b.log_fd, &s), 0);
	assert_true((uint64_t)s.st_blocks * 512 <= CONSOLE_LOG_BYTES + 4096);
	assert_true((uint64_t)s.st_blocks * 512 >= CONSOLE_LOG_BYTES - (2u << 20));
	assert_int_equal(pread(b.log_fd, tail, 7, s.st_size - 7), 7);
	assert_string_equal(tail, "the end");
	box_free(&b);
}

static void test_serial__state_survives_and_hostile_state_is_refused(void **st)
{
	const struct field_table t = serial_class.state;
	uint8_t back[256], bad[256];
	struct wbuf w, w2;
	struct rbuf r;
	struct box b;
	struct err e;

	(void)st;
	box_make(&b);
	assert_true(t.struct_size <= sizeof(back));
	out(&b, 2, 0x81);
	out(&b, 4, 0x13);
	say(&b, "abc");
	out(&b, 1, 5);
	out(&b, 3, 3);
	wbuf_init(&w, 4096);
	wbuf_init(&w2, 4096);
	field_encode(&t, b.d->state, &w);
	serial_class.reset(b.d);
	rbuf_init(&r, w.data, w.len);
	assert_int_equal(field_decode(&t, &r, back, &e), 0);
	assert_true(rbuf_done(&r));
	assert_int_equal(serial_class.check(b.d, back, &e), 0);
	serial_class.commit(b.d, back);
	field_encode(&t, b.d->state, &w2);
	assert_int_equal(w.len, w2.len);
	assert_memory_equal(w.data, w2.data, w.len);
	assert_int_equal(in(&b, 0), 'a');
	/* The last member is the number of bytes in the FIFO. */
	memcpy(bad, w.data, w.len);
	bad[w.len - 1] = 17;
	rbuf_init(&r, bad, w.len);
	assert_int_equal(field_decode(&t, &r, back, &e), 0);
	assert_int_equal(serial_class.check(b.d, back, &e), -EINVAL);
	wbuf_fini(&w);
	wbuf_fini(&w2);
	box_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_serial__probes_as_16550a),
		cmocka_unit_test(test_serial__asking_for_empty_answers_each_time),
		cmocka_unit_test(test_serial__loopback_receives_what_it_sends),
		cmocka_unit_test(test_serial__interrupts_by_priority),
		cmocka_unit_test(test_serial__typing_is_held_back_not_lost),
		cmocka_unit_test(test_console__newcomer_sees_the_last_output),
		cmocka_unit_test(test_console__ninth_client_is_told),
		cmocka_unit_test(test_console__log_has_all_then_only_the_newest),
		cmocka_unit_test(test_serial__state_survives_and_hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
