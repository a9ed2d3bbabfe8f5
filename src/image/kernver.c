/* SPDX-License-Identifier: MIT */
/*
 * Finds out which version a kernel image is: the name of its modules directory. Kernel images come
 * from users and are not trusted. Called by initrd.c and the builds; any one thread.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/util.h"
#include "image/initrd.h"

/* Documentation/arch/x86/boot.rst of the kernel: offsets from the start of the file. */
#define BZ_HEADER_END 0x210
#define BZ_SETUP_SECTS 0x1f1
#define BZ_MAGIC 0x202		/* "HdrS" */
#define BZ_KERNEL_VERSION 0x20e /* le16: where the string is, less 0x200 */

#define BANNER "Linux version "
#define VERSION_MAX 64	   /* __NEW_UTS_LEN */
#define VMLINUX_MAX GIB(1) /* with debug sections */
#define SCAN_CHUNK KIB(256)
#define SCAN_OVERLAP 128 /* a banner and a version may straddle two chunks */

/* Copies the version at s, which ends with a space, to buf; false when it looks like none. */
static bool take_version(const char *s, size_t left, char *buf, size_t n)
{
	size_t len = 0;

	while (len < left && s[len] && s[len] != ' ')
		len++;
	if (!len || len == left || len > VERSION_MAX || len >= n || !isdigit((unsigned char)s[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)s[i]) && !strchr(".-_+~", s[i]))
			return false;
	memcpy(buf, s, len);
	buf[len] = '\0';
	return true;
}

static int bzimage_version(int fd, const uint8_t *head, uint64_t size, char *buf, size_t n,
			   struct err *e)
{
	unsigned at = head[BZ_KERNEL_VERSION] | (unsigned)head[BZ_KERNEL_VERSION + 1] << 8;
	unsigned sects = head[BZ_SETUP_SECTS] ? head[BZ_SETUP_SECTS] : 4;
	char text[VERSION_MAX + 2] = "";

	if (!at)
		return err_set(e, EBADMSG, "a bzImage that does not tell its version");
	if (at >= sects * 512 || !range_ok(at + 0x200u, sizeof(text) - 1, size))
		return err_set(e, EBADMSG,
			       "a bzImage whose version would be at byte %u, beyond its "
			       "%u set-up sectors",
			       at + 0x200, sects);
	if (fd_pread_full(fd, text, sizeof(text) - 1, at + 0x200u))
		return err_set(e, EBADMSG, "a bzImage that cannot be read at byte %u", at + 0x200);
	if (!take_version(text, sizeof(text), buf, n))
		return err_set(e, EBADMSG, "a bzImage whose version is no version");
	return 0;
}

static int vmlinux_version(int fd, uint64_t size, char *buf, size_t n, struct err *e)
{
	cleanup_free char *chunk = malloc(SCAN_CHUNK);
	uint64_t off = 0;

	if (!chunk)
		return err_sys(e, ENOMEM, "read kernel");
	size = MIN(size, VMLINUX_MAX);
	while (off < size) {
		size_t len = MIN(SCAN_CHUNK, size - off);
		char *p = chunk, *end = chunk + len;

		if (fd_pread_full(fd, chunk, len, off))
			return err_set(e, EBADMSG, "an ELF file that cannot be read at byte %llu",
				       (unsigned long long)off);
		while ((p = memmem(p, (size_t)(end - p), BANNER, strlen(BANNER)))) {
			p += strlen(BANNER);
			if (take_version(p, (size_t)(end - p), buf, n))
				return 0;
		}
		off += len == size - off ? len : len - SCAN_OVERLAP;
	}
	return err_set(e, EBADMSG,
		       "an ELF file without '" BANNER "' in it: not an uncompressed "
		       "vmlinux");
}

int kernel_version(int fd, char *buf, size_t n, struct err *e)
{
	uint8_t head[BZ_HEADER_END];
	struct stat st;

	if (fstat(fd, &st))
		return err_sys(e, errno, "kernel");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < sizeof(head) ||
	    fd_pread_full(fd, head, sizeof(head), 0))
		return err_set(e, EBADMSG, "too small for a kernel");
	if (!memcmp(head, "\177ELF", 4))
		return vmlinux_version(fd, (uint64_t)st.st_size, buf, n, e);
	if (!memcmp(head + BZ_MAGIC, "HdrS", 4))
		return bzimage_version(fd, head, (uint64_t)st.st_size, buf, n, e);
	return err_set(e, EBADMSG, "neither a bzImage nor an ELF file");
}
