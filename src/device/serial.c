/* SPDX-License-Identifier: MIT */
/*
 * A 16550A UART (National Semiconductor PC16550D data sheet) at COM1, IRQ 4. It transmits at once,
 * so its transmitter is always empty; it takes from the console no more than its FIFO holds, so it
 * never overruns but in loopback.
 *
 * Fork and restore: the registers and the receive FIFO are kept; the console behind them (socket,
 * clients, ring, log, typed input that the guest has not got yet) is renewed for another identity.
 *
 * Handlers run on vCPU threads with the device lock held, input on main.
 */
#include "device/serial.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "device/bus.h"
#include "device/console.h"
#include "kvm/kvm.h"
#include "x86/platform.h"

#define FIFO_BYTES 16

enum { R_DATA, R_IER, R_IIR, R_LCR, R_MCR, R_LSR, R_MSR, R_SCR, R_COUNT };

#define IER_RX 0x01u
#define IER_THRE 0x02u
#define IER_LINE 0x04u
#define IER_MODEM 0x08u
#define IIR_NONE 0x01u
#define IIR_MODEM 0x00u
#define IIR_THRE 0x02u
#define IIR_RX 0x04u
#define IIR_LINE 0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFO 0xc0u
#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u
#define LCR_DLAB 0x80u
#define MCR_LOOP 0x10u
#define LSR_READY 0x01u
#define LSR_OVERRUN 0x02u
#define LSR_TX_EMPTY 0x60u /* holding and shift register */
#define MSR_DELTA 0x0fu
#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u

struct serial_state {
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	uint8_t fcr;  /* FCR_ENABLE and the trigger level's two bits */
	uint8_t lsr;  /* only errors: LSR_OVERRUN */
	uint8_t msr;  /* as the guest reads it */
	uint8_t thre; /* a "holding register empty" interrupt is pending */
	uint8_t fifo[FIFO_BYTES];
	uint8_t fifo_n;
};

struct serial {
	struct device d; /* first */
	struct serial_state state;
	struct console *console;
	bool running; /* between resume and quiesce: nothing typed comes in otherwise */
	bool line;    /* what the interrupt line was set to */
};

static const struct field serial_fields[] = {
	F_U8(struct serial_state, ier),	    F_U8(struct serial_state, lcr),
	F_U8(struct serial_state, mcr),	    F_U8(struct serial_state, scr),
	F_U8(struct serial_state, dll),	    F_U8(struct serial_state, dlm),
	F_U8(struct serial_state, fcr),	    F_U8(struct serial_state, lsr),
	F_U8(struct serial_state, msr),	    F_U8(struct serial_state, thre),
	F_BYTES(struct serial_state, fifo), F_U8(struct serial_state, fifo_n),
};

static struct serial *serial_of(const struct device *d)
{
	return container_of(d, struct serial, d);
}

/* How many bytes wait before the guest is told, without the timeout. */
static uint8_t trigger(const struct serial_state *s)
{
	static const uint8_t level[] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

/* The most urgent interrupt, by the data sheet's priorities. */
static uint8_t cause(const struct serial_state *s)
{
	if ((s->ier & IER_LINE) && s->lsr)
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->fifo_n >= trigger(s))
		return IIR_RX;
	/* The timeout of four characters' time is over at once. */
	if ((s->ier & IER_RX) && s->fifo_n)
		return IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thre)
		return IIR_THRE;
	if ((s->ier & IER_MODEM) && (s->msr & MSR_DELTA))
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_line(struct serial *s)
{
	bool level = cause(&s->state) != IIR_NONE;

	if (level == s->line)
		return;
	s->line = level;
	kvm_irq_line(s->d.m->kvm, PLAT_COM1_GSI, level);
}

static void receive(struct serial_state *s, uint8_t byte)
{
	if (s->fifo_n == (s->fcr & FCR_ENABLE ? FIFO_BYTES : 1))
		s->lsr |= LSR_OVERRUN;
	else
		s->fifo[s->fifo_n++] = byte;
}

static void fill(struct serial *s)
{
	struct serial_state *st = &s->state;
	uint8_t max = st->fcr & FCR_ENABLE ? FIFO_BYTES : 1, byte;

	/* In loopback the line is cut off. */
	while (!(st->mcr & MCR_LOOP) && st->fifo_n < max && console_get(s->console, &byte))
		receive(st, byte);
}

static void on_input(void *arg)
{
	struct serial *s = arg;

	if (!s->running) {
		device_wake(s->d.m, "console");
		return;
	}
	fill(s);
	update_line(s);
}

bool serial_waits(const struct device *d)
{
	const struct serial *s = (const struct serial *)d;

	return (s->state.ier & IER_RX) && (s->state.fifo_n || console_typed(s->console));
}

static uint8_t pop(struct serial *s)
{
	struct serial_state *st = &s->state;
	uint8_t byte;

	if (!st->fifo_n)
		return 0;
	byte = st->fifo[0];
	memmove(st->fifo, st->fifo + 1, --st->fifo_n);
	st->fifo[st->fifo_n] = 0;
	fill(s);
	return byte;
}

/* The modem's lines: somebody is always there; in loopback our own outputs come back. */
static void update_modem(struct serial_state *s)
{
	uint8_t now = MSR_DCD | MSR_DSR | MSR_CTS, was = s->msr & 0xf0;

	if (s->mcr & MCR_LOOP) {
		now = (uint8_t)((s->mcr & 0x0c) << 4); /* OUT1 to RI, OUT2 to DCD */
		if (s->mcr & 0x01)		       /* DTR */
			now |= MSR_DSR;
		if (s->mcr & 0x02) /* RTS */
			now |= MSR_CTS;
	}
	if ((now ^ was) & MSR_CTS)
		s->msr |= 0x01;
	if ((now ^ was) & MSR_DSR)
		s->msr |= 0x02;
	if ((was & ~now) & MSR_RI) /* only its trailing edge */
		s->msr |= 0x04;
	if ((now ^ was) & MSR_DCD)
		s->msr |= 0x08;
	s->msr = (uint8_t)(now | (s->msr & MSR_DELTA));
}

static uint8_t read_iir(struct serial_state *s)
{
	uint8_t v = cause(s);

	if (v == IIR_THRE)
		s->thre = 0;
	return v | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_register(struct serial *s, uint64_t off)
{
	struct serial_state *st = &s->state;
	uint8_t v;

	switch (off) {
	case R_DATA:
		return st->lcr & LCR_DLAB ? st->dll : pop(s);
	case R_IER:
		return st->lcr & LCR_DLAB ? st->dlm : st->ier;
	case R_IIR:
		return read_iir(st);
	case R_LCR:
		return st->lcr;
	case R_MCR:
		return st->mcr;
	case R_LSR:
		v = (uint8_t)(LSR_TX_EMPTY | st->lsr | (st->fifo_n ? LSR_READY : 0));
		st->lsr = 0;
		return v;
	case R_MSR:
		v = st->msr;
		st->msr &= (uint8_t)~MSR_DELTA;
		return v;
	default:
		return st->scr;
	}
}

static void write_data(struct serial *s, uint8_t v)
{
	struct serial_state *st = &s->state;

	if (st->mcr & MCR_LOOP)
		receive(st, v);
	else
		console_put(s->console, v);
	st->thre = 1; /* sent already */
}

static void write_fcr(struct serial *s, uint8_t v)
{
	struct serial_state *st = &s->state;

	if (!(v & FCR_ENABLE))
		v = 0;
	if (((v ^ st->fcr) & FCR_ENABLE) || (v & FCR_CLEAR_RX)) {
		memset(st->fifo, 0, sizeof(st->fifo));
		st->fifo_n = 0;
	}
	st->fcr = v & (0xc0 | FCR_ENABLE);
	fill(s);
}

static void write_register(struct serial *s, uint64_t off, uint8_t v)
{
	struct serial_state *st = &s->state;

	switch (off) {
	case R_DATA:
		if (st->lcr & LCR_DLAB)
			st->dll = v;
		else
			write_data(s, v);
		break;
	case R_IER:
		if (st->lcr & LCR_DLAB) {
			st->dlm = v;
			break;
		}
		/* Asking anew for "empty" answers at once: drivers test for it. */
		if ((v & IER_THRE) && !(st->ier & IER_THRE))
			st->thre = 1;
		st->ier = v & 0x0f;
		break;
	case R_IIR:
		write_fcr(s, v);
		break;
	case R_LCR:
		st->lcr = v;
		break;
	case R_MCR:
		st->mcr = v & 0x1f;
		update_modem(st);
		fill(s);
		break;
	case R_SCR:
		st->scr = v;
		break;
	default: /* LSR and MSR: for factory tests */
		break;
	}
}

/* A wider access is one access to each register, as on the bus of a PC. */
static void serial_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	struct serial *s = arg;

	for (unsigned int i = 0; i < len; i++)
		((uint8_t *)data)[i] = read_register(s, off + i);
	update_line(s);
}

static void serial_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	struct serial *s = arg;

	for (unsigned int i = 0; i < len; i++)
		write_register(s, off + i, ((const uint8_t *)data)[i]);
	update_line(s);
}

static const struct bus_ops serial_ops = { .read = serial_read, .write = serial_write };

static void serial_reset(struct device *d)
{
	struct serial *s = serial_of(d);

	s->state = (struct serial_state){
		.dll = 12, /* 9600 baud */
		.msr = MSR_DCD | MSR_DSR | MSR_CTS,
	};
}

static void serial_destroy(struct device *d)
{
	struct serial *s;

	if (!d)
		return;
	s = serial_of(d);
	bus_del(d->m->pio, PLAT_COM1_PORT);
	console_destroy(s->console);
	free(s);
}

static int serial_create(struct machine *m, const char *id, const void *cfg, struct device **out,
			 struct err *e)
{
	struct serial *s = calloc(1, sizeof(*s));
	int r;

	(void)cfg;
	if (!s)
		return err_set(e, ENOMEM, "no memory for the serial port");
	s->d = (struct device){ .cls = &serial_class, .m = m, .state = &s->state };
	snprintf(s->d.id, sizeof(s->d.id), "%s", id);
	serial_reset(&s->d);
	r = bus_add(m->pio, "serial", PLAT_COM1_PORT, R_COUNT, &serial_ops, s, e);
	if (r) {
		free(s);
		return r;
	}
	r = console_create(m, on_input, s, &s->console, e);
	if (r) {
		serial_destroy(&s->d);
		return r;
	}
	*out = &s->d;
	return 0;
}

void serial_flush(struct device *d)
{
	console_flush(serial_of(d)->console);
}

static int serial_quiesce(struct device *d, struct err *e)
{
	struct serial *s = serial_of(d);

	(void)e;
	s->running = false;
	console_flush(s->console);
	return 0;
}

static int serial_check(const struct device *d, const void *state, struct err *e)
{
	const struct serial_state *s = state;

	(void)d;
	if (s->fifo_n > (s->fcr & FCR_ENABLE ? FIFO_BYTES : 1))
		return err_set(e, EINVAL, "serial port: %u bytes in the FIFO", s->fifo_n);
	if ((s->ier & ~0x0f) || (s->mcr & ~0x1f) || (s->fcr & ~(0xc0 | FCR_ENABLE)) ||
	    (s->lsr & ~LSR_OVERRUN) || s->thre > 1)
		return err_set(e, EINVAL, "serial port: a register has bits that it does not have");
	return 0;
}

static int serial_adopt(struct device *d, const struct identity *id, struct err *e)
{
	serial_of(d)->running = false;
	return console_adopt(serial_of(d)->console, id->renew, e);
}

/* The chips remember an edge, not who holds the line: set it anew. An interrupt too many harms no
 * driver, one too few would hang it. */
static void serial_resume(struct device *d)
{
	struct serial *s = serial_of(d);

	s->running = true;
	fill(s);
	s->line = false;
	kvm_irq_line(d->m->kvm, PLAT_COM1_GSI, false);
	update_line(s);
}

const struct device_class serial_class = {
	.name = "serial",
	.version = 1,
	.state = FIELD_TABLE(struct serial_state, serial_fields),
	.create = serial_create,
	.destroy = serial_destroy,
	.reset = serial_reset,
	.quiesce = serial_quiesce,
	.resume = serial_resume,
	.check = serial_check,
	.commit = device_commit_copy,
	.prepare = device_prepare_nothing,
	.adopt = serial_adopt,
};
