/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finds Xen's libraries at run time, and says in a sentence what is missing. */
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "xen_libs.h"

struct symbol {
    const char *name;
    size_t offset; /* in struct xen_libs */
    int optional;
};

#define SYMBOL(field) { "xen" #field, offsetof(struct xen_libs, field), 0 }
#define OPTIONAL(field) { "xen" #field, offsetof(struct xen_libs, field), 1 }

static const struct symbol gnttab_symbols[] = {
    SYMBOL(gnttab_open),         SYMBOL(gnttab_close), SYMBOL(gnttab_map_domain_grant_refs), SYMBOL(gnttab_unmap),
    SYMBOL(gntshr_open),         SYMBOL(gntshr_close), SYMBOL(gntshr_share_pages),           SYMBOL(gntshr_unshare),
    OPTIONAL(gnttab_grant_copy), { NULL, 0, 0 },
};

static const struct symbol foreignmemory_symbols[] = {
    SYMBOL(foreignmemory_open),
    SYMBOL(foreignmemory_close),
    SYMBOL(foreignmemory_restrict),
    SYMBOL(foreignmemory_map),
    SYMBOL(foreignmemory_unmap),
    SYMBOL(foreignmemory_map_resource),
    SYMBOL(foreignmemory_unmap_resource),
    OPTIONAL(foreignmemory_resource_size),
    { NULL, 0, 0 },
};

static const struct symbol evtchn_symbols[] = {
    SYMBOL(evtchn_open),
    SYMBOL(evtchn_close),
    SYMBOL(evtchn_fd),
    SYMBOL(evtchn_notify),
    SYMBOL(evtchn_bind_unbound_port),
    SYMBOL(evtchn_bind_interdomain),
    SYMBOL(evtchn_unbind),
    SYMBOL(evtchn_pending),
    SYMBOL(evtchn_unmask),
    { NULL, 0, 0 },
};

static const struct {
    const char *file;
    const struct symbol *symbols;
} libraries[] = {
    { "libxengnttab.so.1", gnttab_symbols },
    { "libxenforeignmemory.so.1", foreignmemory_symbols },
    { "libxenevtchn.so.1", evtchn_symbols },
};

const struct xen_node xen_node_privcmd = { "/dev/xen/privcmd", "xen-privcmd" };
const struct xen_node xen_node_gntdev = { "/dev/xen/gntdev", "xen-gntdev" };
const struct xen_node xen_node_gntalloc = { "/dev/xen/gntalloc", "xen-gntalloc" };
const struct xen_node xen_node_evtchn = { "/dev/xen/evtchn", "xen-evtchn" };

static int load_library(struct xen_libs *libs, const char *file, const struct symbol *symbols)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return svq_hv_fail(-ENOSYS, "Xen's library %s cannot be loaded; install Xen's tools libraries (%s)", file,
                           dlerror());
    for (; symbols->name; symbols++) {
        void *address = dlsym(library, symbols->name);
        if (!address && !symbols->optional)
            return svq_hv_fail(-ENOSYS, "Xen's library %s is too old: it has no %s", file, symbols->name);
        memcpy((char *)libs + symbols->offset, &address, sizeof address);
    }
    return 0;
}

int xen_libs_load(const struct xen_libs **out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct xen_libs libs;
    static int loaded;
    int rc = 0;

    pthread_mutex_lock(&lock);
    for (size_t i = 0; !loaded && rc == 0 && i < sizeof libraries / sizeof libraries[0]; i++)
        rc = load_library(&libs, libraries[i].file, libraries[i].symbols);
    if (rc == 0)
        loaded = 1; /* and never unloaded */
    pthread_mutex_unlock(&lock);
    *out = &libs;
    return rc;
}

int xen_node_failed(const struct xen_node *node, int err)
{
    if (err == ENOENT)
        return svq_hv_fail(-err, "%s does not exist: this is not a Xen domain, or the kernel module %s is not loaded",
                           node->path, node->module);
    if (err == ENODEV || err == ENXIO)
        return svq_hv_fail(-err, "%s has no driver: load the kernel module %s", node->path, node->module);
    if (err == EACCES || err == EPERM)
        return svq_hv_fail(-err, "%s may not be opened by this user", node->path);
    return svq_hv_fail(-err, "%s cannot be opened: %s", node->path, strerror(err));
}

/* --- the logger: struct xentoollog_logger of xentoollog.h --------------------------------------------- */
struct logger {
    void (*vmessage)(struct logger *logger, int level, int errnoval, const char *context, const char *format,
                     va_list args);
    void (*progress)(struct logger *logger, const char *context, const char *doing_what, int percent,
                     unsigned long done, unsigned long total);
    void (*destroy)(struct logger *logger);
};

static void say_nothing(struct logger *logger, int level, int errnoval, const char *context, const char *format,
                        va_list args)
{
    (void)logger;
    (void)level;
    (void)errnoval;
    (void)context;
    (void)format;
    (void)args;
}

static void keep_it(struct logger *logger) { (void)logger; /* it is static */ }

void *xen_silent_logger(void)
{
    static struct logger logger = { .vmessage = say_nothing, .destroy = keep_it };
    return &logger;
}
