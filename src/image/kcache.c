/* SPDX-License-Identifier: MIT */
/*
 * The kernel cache. apt runs with a configuration and state directory of its own inside the cache,
 * so it needs no root and does not touch the host's. Called by the builds; any one thread.
 */
#include "image/kcache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/util.h"
#include "image/initrd.h"
#include "image/proc.h"
#include "image/store.h"
#include "image/tree.h"

#define FRESH_SECONDS 86400
#define PACKAGE_MAX 128

struct cache {
	const struct kcache_cfg *cfg;
	char dir[PATH_MAX - 512];  /* room for what is below */
	char apt[PATH_MAX - 384];  /* apt's own world */
	char tmp[PATH_MAX - 384];  /* unpacking; the lock is held */
	char link[PATH_MAX - 256]; /* kernels/RELEASE-PACKAGE -> directory of the newest */
	char env[PATH_MAX - 256];  /* APT_CONFIG=... */
};

static int cache_dir(char *buf, size_t n, struct err *e)
{
	const char *dir = getenv("CLONE_CACHE_DIR"), *below = "";

	if (!dir || !*dir) {
		if (!geteuid())
			return tree_path(buf, n, e, "/var/cache/clone");
		dir = getenv("XDG_CACHE_HOME");
		below = "/clone";
	}
	if (!dir || !*dir) {
		dir = getenv("HOME");
		below = "/.cache/clone";
	}
	if (!dir || dir[0] != '/')
		return err_set(e, EINVAL,
			       "where is the cache? HOME and CLONE_CACHE_DIR do not say");
	return tree_path(buf, n, e, "%s%s", dir, below);
}

static int set_paths(struct cache *c, struct err *e)
{
	const struct kcache_cfg *cfg = c->cfg;
	int r = cache_dir(c->dir, sizeof(c->dir), e);

	if (!r)
		r = tree_path(c->apt, sizeof(c->apt), e, "%s/apt-%s", c->dir, cfg->release);
	if (!r)
		r = tree_path(c->tmp, sizeof(c->tmp), e, "%s/unpack", c->dir);
	if (!r)
		r = tree_path(c->link, sizeof(c->link), e, "%s/kernels/%s-%s", c->dir, cfg->release,
			      cfg->package);
	if (!r)
		r = tree_path(c->env, sizeof(c->env), e, "APT_CONFIG=%s/apt.conf", c->apt);
	return r;
}

static int run(const struct cache *c, const char *cwd, const char *const *argv, struct err *e)
{
	const char *const env[] = { c->env, NULL };
	const struct proc p = {
		.argv = argv,
		.env = env,
		.cwd = cwd,
		.log = c->cfg->log,
		.line = c->cfg->line,
		.arg = c->cfg->arg,
		.keep_fd = c->cfg->keep_fd,
	};

	return proc_run(&p, e);
}

/* The newest kernel known for the release: true when it is whole; *fresh: and asked for lately. */
static bool known(const struct cache *c, struct kernel *k, bool *fresh)
{
	char name[256], index[PATH_MAX];
	struct stat st;
	ssize_t n = readlink(c->link, name, sizeof(name) - 1);
	const char *under;

	*fresh = false;
	if (n <= 0)
		return false;
	name[n] = '\0';
	under = strchr(name, '_');
	if (strchr(name, '/') || !under || lstat(c->link, &st))
		return false;
	*fresh = time(NULL) - st.st_mtime < FRESH_SECONDS && time(NULL) >= st.st_mtime;
	if (tree_path(k->dir, sizeof(k->dir), NULL, "%s/kernels/%s", c->dir, name) ||
	    tree_path(k->vmlinuz, sizeof(k->vmlinuz), NULL, "%s/vmlinuz", k->dir))
		return false;
	{
		cleanup_close int fd = open(k->vmlinuz, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || kernel_version(fd, k->version, sizeof(k->version), NULL))
			return false;
	}
	return !tree_path(index, sizeof(index), NULL, "%s/lib/modules/%s/modules.dep", k->dir,
			  k->version) &&
	       !access(index, R_OK);
}

static int apt_setup(const struct cache *c, struct err *e)
{
	cleanup_free char *conf = NULL;
	static const char *const dirs[] = { "lists/partial", "archives/partial" };
	char path[PATH_MAX];
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(dirs); i++) {
		r = tree_path(path, sizeof(path), e, "%s/%s", c->apt, dirs[i]);
		if (!r)
			r = tree_mkdirs(path, 0755, e);
	}
	if (r)
		return r;
	if (asprintf(&conf,
		     "Dir::State \"%s/\";\nDir::State::lists \"%s/lists/\";\n"
		     "Dir::State::status \"%s/status\";\nDir::Cache \"%s/\";\n"
		     "Dir::Cache::archives \"%s/archives/\";\n"
		     "Dir::Etc::sourcelist \"%s/sources.list\";\nDir::Etc::sourceparts \"-\";\n"
		     "APT::Architecture \"amd64\";\n#clear APT::Architectures;\n"
		     "APT::Architectures { \"amd64\"; };\nAcquire::Languages \"none\";\n"
		     "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n",
		     c->apt, c->apt, c->apt, c->apt, c->apt, c->apt) < 0) {
		conf = NULL;
		return err_sys(e, ENOMEM, "apt.conf");
	}
	r = tree_write(c->apt, "apt.conf", 0644, conf, strlen(conf), e);
	if (!r)
		r = tree_write(c->apt, "status", 0644, "", 0, e);
	if (!r)
		r = tree_write(c->apt, "sources.list", 0644, c->cfg->sources,
			       strlen(c->cfg->sources), e);
	return r;
}

static bool package_ok(const char *s)
{
	size_t n = strlen(s);

	return n && n < PACKAGE_MAX && n == strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789+.-~:");
}

/* The first package that `package` depends on: "Depends: linux-image-V (= W)". */
static int find_package(const struct cache *c, char pkg[PACKAGE_MAX], char version[PACKAGE_MAX],
			struct err *e)
{
	const char *const argv[] = {
		"apt-cache",	 "-c", c->env + strlen("APT_CONFIG="), "show", "--no-all-versions",
		c->cfg->package, NULL
	};
	cleanup_free char *out = NULL;
	const char *at;
	int r = proc_capture(argv, &out, e);

	if (r)
		return err_wrap(e, r, "release %s has no %s", c->cfg->release, c->cfg->package);
	at = strstr(out, "\nDepends: ");
	if (!at || sscanf(at, "\nDepends: %127[^ ,\n] (= %127[^) ,\n])", pkg, version) != 2 ||
	    !package_ok(pkg) || !package_ok(version) || strncmp(pkg, "linux-image-", 12))
		return err_set(e, EBADMSG, "%s does not say on which kernel it depends",
			       c->cfg->package);
	return 0;
}

/* The one file in dir whose name begins and ends so. */
static int only_file(const char *dir, const char *begin, const char *end, char *buf, size_t n,
		     struct err *e)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	int r = -ENOENT;

	while (r && d && (de = readdir(d))) {
		size_t len = strlen(de->d_name);

		if (len >= strlen(end) && !strncmp(de->d_name, begin, strlen(begin)) &&
		    !strcmp(de->d_name + len - strlen(end), end) && de->d_name[0] != '.')
			r = tree_path(buf, n, e, "%s/%s", dir, de->d_name);
	}
	if (d)
		closedir(d);
	return r == -ENOENT ? err_set(e, ENOENT, "no %s*%s in %s", begin, end, dir) : r;
}

static int move(const char *from, const char *to, struct err *e)
{
	return rename(from, to) ? err_sys(e, errno, "move %s to %s", from, to) : 0;
}

/* Unpacks tmp/PKG.deb and makes tmp/out as a cache entry looks: vmlinuz, lib/modules/V. */
static int unpack(const struct cache *c, struct err *e)
{
	char deb[PATH_MAX], x[PATH_MAX], out[PATH_MAX], path[PATH_MAX], to[PATH_MAX], version[65];
	const char *const unpack_argv[] = { "dpkg-deb", "-x", deb, x, NULL };
	const char *const depmod_argv[] = { "depmod", "-b", out, version, NULL };
	cleanup_close int fd = -1;
	struct stat st;
	int r;

	if ((r = only_file(c->tmp, "linux-image-", ".deb", deb, sizeof(deb), e)) ||
	    (r = tree_path(x, sizeof(x), e, "%s/x", c->tmp)) ||
	    (r = tree_path(out, sizeof(out), e, "%s/out", c->tmp)) ||
	    (r = run(c, NULL, unpack_argv, e)) ||
	    (r = tree_path(to, sizeof(to), e, "%s/lib/modules", out)) ||
	    (r = tree_mkdirs(to, 0755, e)) ||
	    (r = tree_path(path, sizeof(path), e, "%s/boot", x)) ||
	    (r = only_file(path, "vmlinuz-", "", deb, sizeof(deb), e)) ||
	    (r = tree_path(to, sizeof(to), e, "%s/vmlinuz", out)) || (r = move(deb, to, e)))
		return r;
	fd = open(to, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "%s", to);
	r = kernel_version(fd, version, sizeof(version), e);
	if (r)
		return r;
	/* Before and after the merge of /lib into /usr/lib. */
	r = tree_path(path, sizeof(path), e, "%s/lib/modules/%s", x, version);
	if (!r && stat(path, &st))
		r = tree_path(path, sizeof(path), e, "%s/usr/lib/modules/%s", x, version);
	if (!r)
		r = tree_path(to, sizeof(to), e, "%s/lib/modules/%s", out, version);
	if (!r)
		r = move(path, to, e);
	return r ? r : run(c, NULL, depmod_argv, e);
}

static int make_link(const struct cache *c, const char *name, struct err *e)
{
	unlink(c->link);
	return symlink(name, c->link) ? err_sys(e, errno, "%s", c->link) : 0;
}

static int download(const struct cache *c, const char *pkg, const char *version, const char *to,
		    struct err *e)
{
	char spec[2 * PACKAGE_MAX + 2], out[PATH_MAX];
	const char *const argv[] = { "apt-get", "download", spec, NULL };
	cleanup_close int dir = -1;
	int r;

	snprintf(spec, sizeof(spec), "%s=%s", pkg, version);
	if ((r = tree_remove(c->tmp, e)) || (r = tree_mkdirs(c->tmp, 0755, e)) ||
	    (r = run(c, c->tmp, argv, e)) || (r = unpack(c, e)) ||
	    (r = tree_path(out, sizeof(out), e, "%s/out", c->tmp)))
		return r;
	dir = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || syncfs(dir)) /* the name says that it is whole */
		return err_sys(e, errno, "sync %s", out);
	r = move(out, to, e);
	tree_remove(c->tmp, NULL);
	return r;
}

static int refresh(const struct cache *c, struct err *e)
{
	static const char *const update[] = {
		"apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any", NULL
	};
	char pkg[PACKAGE_MAX], version[PACKAGE_MAX], name[2 * PACKAGE_MAX + 2], to[PATH_MAX];
	struct stat st;
	int r;

	if ((r = proc_have("apt-get", "apt", e)) || (r = proc_have("dpkg-deb", "dpkg", e)) ||
	    (r = proc_have("depmod", "kmod", e)) || (r = apt_setup(c, e)) ||
	    (r = run(c, NULL, update, e)) || (r = find_package(c, pkg, version, e)))
		return r;
	snprintf(name, sizeof(name), "%s_%s", pkg, version);
	r = tree_path(to, sizeof(to), e, "%s/kernels/%s", c->dir, name);
	if (!r && stat(to, &st))
		r = download(c, pkg, version, to, e);
	return r ? r : make_link(c, name, e);
}

int kcache_get(const struct kcache_cfg *cfg, struct kernel *k, struct err *e)
{
	struct cache c = { .cfg = cfg };
	cleanup_close int lock = -1;
	char path[PATH_MAX];
	bool fresh, have;
	int r = set_paths(&c, e);

	if (!r)
		r = tree_path(path, sizeof(path), e, "%s/kernels", c.dir);
	if (!r)
		r = tree_mkdirs(path, 0755, e);
	if (!r)
		r = tree_path(path, sizeof(path), e, "%s/.lock", c.dir);
	if (!r)
		r = store_lock_file(path, true, &lock, e);
	if (r)
		return err_wrap(e, r, "kernel cache");
	have = known(&c, k, &fresh);
	if (have && fresh)
		return 0;
	r = refresh(&c, e);
	if (!r)
		r = known(&c, k, &fresh) ? 0 : err_set(e, EIO, "%s is not as expected", c.link);
	if (r && have && known(&c, k, &fresh)) {
		if (cfg->line)
			cfg->line(cfg->arg,
				  "no newer kernel to be had: using the one in the cache");
		return 0;
	}
	return r ? err_wrap(e, r, "kernel %s", cfg->package) : 0;
}
