/* SPDX-License-Identifier: MIT */
/*
 * The smallest bzImage: a setup header (Linux Documentation/arch/x86/boot.rst) and code at the
 * 64-bit entry, 0x200 bytes into the protected-mode part.
 */
#include "tests/lib/tiny_kernel.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm/vm.h"

static void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

int tiny_kernel_code(const void *code, size_t n)
{
	uint8_t image[4096] = { 0 };
	int fd = memfd_create("tiny-kernel", MFD_CLOEXEC);

	image[0x1f1] = 1;				   /* setup_sects */
	put32(image + 0x1f4, (sizeof(image) - 1024) / 16); /* syssize, in paragraphs */
	put16(image + 0x1fe, 0xaa55);
	image[0x200] = 0xeb; /* jump over the header: its length is how loaders know its end */
	image[0x201] = 0x66;
	memcpy(image + 0x202, "HdrS", 4);
	put16(image + 0x206, 0x020f);	  /* protocol 2.15 */
	image[0x211] = 1;		  /* loadflags: LOADED_HIGH */
	put32(image + 0x22c, 0x7fffffff); /* initrd_addr_max */
	put32(image + 0x230, 0x200000);	  /* kernel_alignment */
	image[0x234] = 1;		  /* relocatable */
	put16(image + 0x236, 3);	  /* xloadflags: 64-bit entry, may be loaded above 4 GiB */
	put32(image + 0x238, 2047);	  /* cmdline_size */
	put32(image + 0x258, 0x1000000);  /* pref_address */
	put32(image + 0x260, 0x100000);	  /* init_size */
	memcpy(image + 1024 + 0x200, code, n);
	if (fd >= 0 && write(fd, image, sizeof(image)) != (ssize_t)sizeof(image)) {
		close(fd);
		return -1;
	}
	return fd;
}

int tiny_kernel_counter(void)
{
	static const uint8_t code[] = {
		0x48, 0xc7,	 0xc3, 0x00, 0x00, 0x00, 0x02, /* mov $TINY_COUNTER_GPA, %rbx */
		0x48, 0xff,	 0x03,			       /* again: incq (%rbx) */
		0xe6, TINY_PORT,			       /* out %al, $TINY_PORT */
		0xeb, 0xf9,				       /* jmp again */
	};

	return tiny_kernel_code(code, sizeof(code));
}

int tiny_kernel_large(void)
{
	static const uint8_t code[] = {
		0x48, 0xc7,	 0xc7, 0x00, 0x00, 0x00, 0x04, /* mov $TINY_LARGE_GPA, %rdi */
		0x48, 0xc7,	 0xc0, 0x78, 0x56, 0x34, 0x12, /* mov $TINY_LARGE_WORD, %rax */
		0xb9, 0x00,	 0x00, 0x20, 0x00,	       /* mov $TINY_LARGE_BYTES / 8, %ecx */
		0xf3, 0x48,	 0xab,			       /* rep stosq */
		0x48, 0xc7,	 0xc3, 0x00, 0x00, 0x00, 0x02, /* mov $TINY_COUNTER_GPA, %rbx */
		0x48, 0xff,	 0x03,			       /* again: incq (%rbx) */
		0xe6, TINY_PORT,			       /* out %al, $TINY_PORT */
		0xeb, 0xf9,				       /* jmp again */
	};

	return tiny_kernel_code(code, sizeof(code));
}

int tiny_add_disk(struct vm *vm, struct err *e)
{
	static const struct vm_disk_file file = { .path = "base" };
	static const struct vm_disk disk = { .id = "root", .files = &file, .nr_files = 1 };

	return vm_add_disk(vm, &disk, e);
}
