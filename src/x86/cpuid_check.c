/* SPDX-License-Identifier: MIT */
/*
 * May a guest that was saved elsewhere run here? Its CPUID is compared with the one that this host
 * would give it, feature bit by feature bit, and what is missing is named as /proc/cpuinfo names
 * it. The table comes from a snapshot and is hostile. See cpuid.h.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "x86/cpuid.h"

enum reg { EAX, EBX, ECX, EDX };

struct feature_word {
	uint32_t function, index;
	enum reg reg;
	const char *names[32];
};

/* clang-format off */
static const struct feature_word words[] = {
	{ 1, 0, ECX, { "pni", "pclmulqdq", "dtes64", "monitor", "ds_cpl", "vmx", "smx", "est",
		       "tm2", "ssse3", "cid", "sdbg", "fma", "cx16", "xtpr", "pdcm", NULL, "pcid",
		       "dca", "sse4_1", "sse4_2", "x2apic", "movbe", "popcnt", "tsc_deadline_timer",
		       "aes", "xsave", "osxsave", "avx", "f16c", "rdrand", "hypervisor" } },
	{ 1, 0, EDX, { "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", NULL,
		       "sep", "mtrr", "pge", "mca", "cmov", "pat", "pse36", "pn", "clflush", NULL,
		       "dts", "acpi", "mmx", "fxsr", "sse", "sse2", "ss", "ht", "tm", "ia64",
		       "pbe" } },
	{ 6, 0, EAX, { [2] = "arat" } },
	{ 7, 0, EBX, { "fsgsbase", "tsc_adjust", "sgx", "bmi1", "hle", "avx2", NULL, "smep",
		       "bmi2", "erms", "invpcid", "rtm", "cqm", NULL, "mpx", "rdt_a", "avx512f",
		       "avx512dq", "rdseed", "adx", "smap", "avx512ifma", NULL, "clflushopt",
		       "clwb", "intel_pt", "avx512pf", "avx512er", "avx512cd", "sha_ni",
		       "avx512bw", "avx512vl" } },
	{ 7, 0, ECX, { [1] = "avx512vbmi", [2] = "umip", [3] = "pku", [5] = "waitpkg",
		       [6] = "avx512_vbmi2", [7] = "shstk", [8] = "gfni", [9] = "vaes",
		       [10] = "vpclmulqdq", [11] = "avx512_vnni", [12] = "avx512_bitalg",
		       [14] = "avx512_vpopcntdq", [16] = "la57", [22] = "rdpid",
		       [25] = "cldemote", [27] = "movdiri", [28] = "movdir64b" } },
	{ 7, 0, EDX, { [2] = "avx512_4vnniw", [3] = "avx512_4fmaps", [4] = "fsrm",
		       [8] = "avx512_vp2intersect", [10] = "md_clear", [14] = "serialize",
		       [16] = "tsxldtrk", [20] = "ibt", [23] = "avx512_fp16", [26] = "ibrs",
		       [27] = "stibp", [28] = "flush_l1d", [29] = "arch_capabilities",
		       [31] = "ssbd" } },
	{ 7, 1, EAX, { [4] = "avx_vnni", [5] = "avx512_bf16", [10] = "fzrm", [11] = "fsrs",
		       [12] = "fsrc", [23] = "avx_ifma", [26] = "lam" } },
	{ 7, 1, EDX, { [4] = "avx_vnni_int8", [5] = "avx_ne_convert", [14] = "prefetchiti" } },
	{ 0xd, 0, EAX, { [1] = "xsave sse", [2] = "xsave avx", [5] = "xsave opmask",
			 [6] = "xsave zmm_hi256", [7] = "xsave hi16_zmm", [9] = "xsave pkru" } },
	{ 0xd, 0, EDX, { NULL } },
	{ 0xd, 1, EAX, { "xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd" } },
	{ 0xd, 1, ECX, { NULL } },
	{ 0xd, 1, EDX, { NULL } },
	{ 0x40000001, 0, EAX, { [1] = "kvm nop_io_delay", [3] = "kvmclock", [5] = "kvm steal_time",
				[6] = "kvm pv_eoi", [7] = "kvm pv_unhalt", [9] = "kvm pv_tlb_flush",
				[11] = "kvm pv_ipi", [12] = "kvm poll_control",
				[13] = "kvm pv_sched_yield", [24] = "kvmclock stable" } },
	{ 0x80000001, 0, ECX, { "lahf_lm", "cmp_legacy", "svm", "extapic", "cr8_legacy", "abm",
				"sse4a", "misalignsse", "3dnowprefetch", "osvw", "ibs", "xop",
				[16] = "fma4", [21] = "tbm", [22] = "topoext" } },
	{ 0x80000001, 0, EDX, { [11] = "syscall", [20] = "nx", [22] = "mmxext", [25] = "fxsr_opt",
				[26] = "pdpe1gb", [27] = "rdtscp", [29] = "lm", [30] = "3dnowext",
				[31] = "3dnow" } },
	{ 0x80000007, 0, EDX, { [8] = "constant_tsc" } },
	{ 0x80000008, 0, EBX, { [0] = "clzero", [1] = "irperf", [2] = "xsaveerptr",
				[4] = "rdpru", [9] = "wbnoinvd", [12] = "amd_ibpb",
				[14] = "amd_ibrs", [15] = "amd_stibp", [24] = "amd_ssbd",
				[25] = "virt_ssbd", [26] = "amd_ssb_no", [28] = "amd_psfd" } },
	{ 0x80000021, 0, EAX, { [2] = "lfence_rdtsc", [6] = "null_seg", [8] = "autoibrs" } },
};
/* clang-format on */

static const struct kvm_cpuid_entry2 *find(const struct cpuid_table *t, uint32_t f, uint32_t index)
{
	static const struct kvm_cpuid_entry2 zero;

	for (uint32_t i = 0; i < t->n; i++) {
		const struct kvm_cpuid_entry2 *c = &t->e[i];

		if (c->function == f &&
		    (!(c->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || c->index == index))
			return c;
	}
	return &zero;
}

static uint32_t value(const struct kvm_cpuid_entry2 *c, enum reg r)
{
	return r == EAX ? c->eax : r == EBX ? c->ebx : r == ECX ? c->ecx : c->edx;
}

/* Names of missing features, a bounded list that ends with how many more there are. */
struct missing {
	char text[200];
	unsigned int named, total;
};

static void miss(struct missing *m, const struct feature_word *w, unsigned int bit)
{
	size_t at = strlen(m->text);
	char name[48];

	m->total++;
	if (w->names[bit])
		snprintf(name, sizeof(name), "%s", w->names[bit]);
	else
		snprintf(name, sizeof(name), "cpuid(%#x,%u).%.2sx[%u]", w->function, w->index,
			 &"eaebeced"[w->reg * 2], bit);
	if (m->named != m->total - 1 || at + strlen(name) + 3 > sizeof(m->text))
		return;
	snprintf(m->text + at, sizeof(m->text) - at, "%s%s", at ? ", " : "", name);
	m->named++;
}

static int check_features(const struct cpuid_table *saved, const struct cpuid_table *here,
			  struct err *e)
{
	struct missing m = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		const struct feature_word *w = &words[i];
		uint32_t lost = value(find(saved, w->function, w->index), w->reg) &
				~value(find(here, w->function, w->index), w->reg);

		for (unsigned int bit = 0; bit < 32; bit++)
			if (lost & (1u << bit))
				miss(&m, w, bit);
	}
	if (!m.total)
		return 0;
	if (m.named == m.total)
		return err_set(e, EOPNOTSUPP, "the saved guest needs %s, which this host lacks",
			       m.text);
	return err_set(e, EOPNOTSUPP,
		       "the saved guest needs %s and %u more CPU features, which this host lacks",
		       m.text, m.total - m.named);
}

/* The 12 letters of leaf 0; anything else than letters and blanks is shown as a dot. */
static void vendor(const struct cpuid_table *t, char out[13])
{
	const struct kvm_cpuid_entry2 *c = find(t, 0, 0);

	memcpy(out, &c->ebx, 4);
	memcpy(out + 4, &c->edx, 4);
	memcpy(out + 8, &c->ecx, 4);
	out[12] = '\0';
	for (int i = 0; i < 12; i++)
		if (out[i] < ' ' || out[i] > '~')
			out[i] = '.';
}

int cpuid_check(const struct cpuid_table *saved, const struct cpuid_table *host, unsigned int index,
		unsigned int nr_vcpus, struct err *e)
{
	cleanup_free struct cpuid_table *here = malloc(sizeof(*here));
	char theirs[13], ours[13];
	uint32_t id, width_saved, width_here;

	if (!here)
		return err_set(e, ENOMEM, "no memory for a CPUID table");
	if (saved->n > VCPU_MAX_CPUID)
		return err_set(e, EINVAL, "%u CPUID leaves, at most %d", saved->n, VCPU_MAX_CPUID);
	for (uint32_t i = 0; i < saved->n; i++)
		if (!cpuid_leaf_known(saved->e[i].function))
			return err_set(e, EINVAL, "CPUID leaf %#x is none that we give a guest",
				       saved->e[i].function);
	cpuid_build(host, index, nr_vcpus, here);
	vendor(saved, theirs);
	vendor(here, ours);
	if (strcmp(theirs, ours))
		return err_set(e, EOPNOTSUPP,
			       "the saved guest's CPU is made by \"%s\", this host's by \"%s\"",
			       theirs, ours);
	id = find(saved, 1, 0)->ebx >> 24;
	if (id != index)
		return err_set(e, EINVAL, "vCPU %u was saved with APIC id %u", index, id);
	width_saved = find(saved, 0x80000008, 0)->eax & 0xff;
	width_here = find(here, 0x80000008, 0)->eax & 0xff;
	if (width_saved > width_here)
		return err_set(e, EOPNOTSUPP,
			       "the saved guest has %u physical address bits, this host %u",
			       width_saved, width_here);
	return check_features(saved, here, e);
}
