/*
 * Fails or kills a process at the Nth call that changes a file below one folder.
 *
 * Preloaded with LD_PRELOAD; idle until arm() is called. Counted are the calls that open for writing, write,
 * sync, rename, unlink, link, truncate, make or remove folders. A call counts if a path of it, or the file
 * behind its descriptor, is the folder or lies below it. Linux, 64 bit.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The numbers are those of tests/crash_points/shim.py. */
enum mode { COUNT, KILL_BEFORE, KILL_AFTER, TEAR, NO_SPACE, IO_ERROR, POWER_LOSS };
/* What a call does: as asked; half of the write; nothing, with errno set. */
enum action { PASS, HALF, FAIL };
/* Whether a call needs room on the disk, so that it fails on a full one. */
enum room { NO_ROOM_NEEDED, NEEDS_ROOM };

#define REAL(name) ((__typeof__(&name))real(#name))
#define MOST_FILES 512

static char folder[PATH_MAX];
static size_t folder_length;
static long fault_at, seen;
static enum mode mode;
static int trace_to = -1;

/* What of every file that was written is safe from a power loss: the first `synced` bytes. */
static struct { dev_t device; ino_t inode; off_t synced; int descriptor; } files[MOST_FILES];
static int file_count;

static void *real(const char *name) {
    void *symbol = dlsym(RTLD_NEXT, name);
    if (!symbol) abort();
    return symbol;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* --- Where a call goes --------------------------------------------------------------------------------- */

static int below(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length) &&
           (path[folder_length] == '/' || !path[folder_length]);
}

static const char *of_descriptor(int descriptor, char out[PATH_MAX]) {
    char link[64];
    if (descriptor == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    out[length < 0 ? 0 : length] = 0;
    return out;
}

static const char *absolute(int at, const char *path, char out[PATH_MAX]) {
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        of_descriptor(at, out);
        size_t length = strlen(out);
        snprintf(out + length, PATH_MAX - length, "/%s", path);
    }
    return out;
}

/* --- Power loss ---------------------------------------------------------------------------------------- */

static int find(const struct stat *status) {
    for (int i = 0; i < file_count; i++)
        if (files[i].device == status->st_dev && files[i].inode == status->st_ino) return i;
    return -1;
}

static void opened(int descriptor, int flags, off_t size_before) {
    struct stat status;
    char link[64];
    if (mode != POWER_LOSS || fstat(descriptor, &status) || !S_ISREG(status.st_mode)) return;
    int i = find(&status);
    if (i < 0) {
        if (file_count == MOST_FILES) abort();
        i = file_count++;
        /* Held open, so that it is found again whatever it is called by then. */
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        files[i].descriptor = REAL(open)(link, O_RDWR | O_CLOEXEC);
        files[i].device = status.st_dev;
        files[i].inode = status.st_ino;
        files[i].synced = size_before;
    }
    if (flags & O_TRUNC) files[i].synced = 0;
}

static void synced(int descriptor) {
    struct stat status;
    if (mode != POWER_LOSS || fstat(descriptor, &status)) return;
    int i = find(&status);
    if (i >= 0) files[i].synced = status.st_size;
}

/* Forgets what was written and not synced, as the page cache does, and ends the process. */
void lose_power(void) {
    struct stat status;
    for (int i = 0; i < file_count; i++)
        if (!fstat(files[i].descriptor, &status) && status.st_size > files[i].synced)
            if (REAL(ftruncate)(files[i].descriptor, files[i].synced)) abort();
    die();
}

/* --- The fault ----------------------------------------------------------------------------------------- */

static void trace(const char *operation, const char *path) {
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %s\n", operation, path[folder_length] ? path + folder_length + 1 : ".");
    if (syscall(SYS_write, trace_to, line, length) != length) abort();
}

static enum action fail(int error) {
    errno = error;
    return FAIL;
}

static enum action before(const char *operation, const char *path, enum room room, int writes) {
    seen++;
    if (trace_to >= 0) trace(operation, path);
    int due = seen == fault_at;
    switch (mode) {
    case KILL_BEFORE:
        if (due) die();
        return PASS;
    case POWER_LOSS:
        if (due) lose_power();
        return PASS;
    case TEAR:
        if (due && !writes) die();
        return due ? HALF : PASS;
    case NO_SPACE:
        /* The write that fills the disk succeeds in part and says so; no later one does. */
        if (due && writes) return HALF;
        return due || (fault_at && seen > fault_at && room == NEEDS_ROOM) ? fail(ENOSPC) : PASS;
    case IO_ERROR:
        return due ? fail(EIO) : PASS;
    default:
        return PASS;
    }
}

static void after(void) {
    int error = errno;
    if (seen == fault_at && (mode == KILL_AFTER || mode == TEAR)) die();
    errno = error;
}

/* Starts counting. `at` is the call that gets the fault, from 1; with 0 none does. `trace_fd` gets a line a call. */
void arm(const char *path, long at, int what, int trace_fd) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    fault_at = at;
    mode = what;
    trace_to = trace_fd;
    seen = 0;
    file_count = 0;
}

/* --- The calls ----------------------------------------------------------------------------------------- */

#define GUARD(operation, path, room, call)                                 \
    do {                                                                   \
        if (!below(path)) return call;                                     \
        if (before(operation, path, room, 0) == FAIL) return -1;           \
        __typeof__(call) result = call;                                    \
        after();                                                           \
        return result;                                                     \
    } while (0)

static int open_guarded(int at, const char *path, int flags, mode_t permissions) {
    char full[PATH_MAX];
    struct stat status;
    if ((flags & O_ACCMODE) == O_RDONLY && !(flags & (O_CREAT | O_TRUNC)))
        return REAL(openat)(at, path, flags, permissions);
    absolute(at, path, full);
    if (!below(full)) return REAL(openat)(at, path, flags, permissions);
    int exists = !stat(full, &status);
    if (before("open", full, exists ? NO_ROOM_NEEDED : NEEDS_ROOM, 0) == FAIL) return -1;
    int descriptor = REAL(openat)(at, path, flags, permissions);
    int error = errno;
    if (descriptor >= 0) opened(descriptor, flags, exists ? status.st_size : 0);
    errno = error;
    after();
    return descriptor;
}

static mode_t permissions_of(int flags, va_list more) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t permissions = permissions_of(flags, more);
    va_end(more);
    return open_guarded(AT_FDCWD, path, flags, permissions);
}

int openat(int at, const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t permissions = permissions_of(flags, more);
    va_end(more);
    return open_guarded(at, path, flags, permissions);
}

int creat(const char *path, mode_t permissions) {
    return open_guarded(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, permissions);
}

/* Every kind of write. `offset` is -1 for where the file stands. */
static ssize_t write_guarded(const char *operation, int descriptor, const void *data, size_t size, off_t offset) {
    char full[PATH_MAX];
    int watched = folder_length && below(of_descriptor(descriptor, full));
    enum action action = watched ? before(operation, full, NEEDS_ROOM, 1) : PASS;
    if (action == FAIL) return -1;
    size_t now = action == HALF ? size / 2 : size;
    if (action == HALF && !now && mode == NO_SPACE) {
        errno = ENOSPC;
        return -1;
    }
    ssize_t written = offset < 0 ? REAL(write)(descriptor, data, now) : REAL(pwrite)(descriptor, data, now, offset);
    if (watched) after();
    return written;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    return write_guarded("write", descriptor, data, size, -1);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return write_guarded("pwrite", descriptor, data, size, offset);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    char full[PATH_MAX];
    if (!folder_length || !below(of_descriptor(descriptor, full))) return REAL(writev)(descriptor, parts, count);
    size_t size = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    char *whole = malloc(size ? size : 1), *end = whole;
    if (!whole) abort();
    for (int i = 0; i < count; i++) end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    ssize_t written = write_guarded("writev", descriptor, whole, size, -1);
    int error = errno;
    free(whole);
    errno = error;
    return written;
}

static int sync_guarded(const char *operation, int descriptor, int (*call)(int)) {
    char full[PATH_MAX];
    if (!folder_length || !below(of_descriptor(descriptor, full))) return call(descriptor);
    /* A full disk is told at the write; after that a sync of what did fit succeeds. */
    if (before(operation, full, NO_ROOM_NEEDED, 0) == FAIL) return -1;
    int result = call(descriptor);
    if (!result) synced(descriptor);
    after();
    return result;
}

int fsync(int descriptor) { return sync_guarded("fsync", descriptor, REAL(fsync)); }
int fdatasync(int descriptor) { return sync_guarded("fdatasync", descriptor, REAL(fdatasync)); }

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned int flags) {
    char source[PATH_MAX], target[PATH_MAX];
    absolute(from_at, from, source);
    absolute(to_at, to, target);
    GUARD("rename", below(target) ? target : source, NO_ROOM_NEEDED,
          (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags));
}

int renameat(int from_at, const char *from, int to_at, const char *to) {
    return renameat2(from_at, from, to_at, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags) {
    char full[PATH_MAX];
    GUARD(flags & AT_REMOVEDIR ? "rmdir" : "unlink", absolute(at, path, full), NO_ROOM_NEEDED,
          REAL(unlinkat)(at, path, flags));
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t permissions) {
    char full[PATH_MAX];
    GUARD("mkdir", absolute(at, path, full), NEEDS_ROOM, REAL(mkdirat)(at, path, permissions));
}

int mkdir(const char *path, mode_t permissions) { return mkdirat(AT_FDCWD, path, permissions); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    char full[PATH_MAX];
    GUARD("link", absolute(to_at, to, full), NEEDS_ROOM, REAL(linkat)(from_at, from, to_at, to, flags));
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *content, int at, const char *path) {
    char full[PATH_MAX];
    GUARD("symlink", absolute(at, path, full), NEEDS_ROOM, REAL(symlinkat)(content, at, path));
}

int symlink(const char *content, const char *path) { return symlinkat(content, AT_FDCWD, path); }

int truncate(const char *path, off_t size) {
    char full[PATH_MAX];
    GUARD("truncate", absolute(AT_FDCWD, path, full), NO_ROOM_NEEDED, REAL(truncate)(path, size));
}

int ftruncate(int descriptor, off_t size) {
    char full[PATH_MAX];
    if (!folder_length) return REAL(ftruncate)(descriptor, size);
    GUARD("ftruncate", of_descriptor(descriptor, full), NO_ROOM_NEEDED, REAL(ftruncate)(descriptor, size));
}

/* On 64 bit these are the same functions by another name. */
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int openat64(int at, const char *path, int flags, ...) __attribute__((alias("openat")));
int creat64(const char *path, mode_t permissions) __attribute__((alias("creat")));
ssize_t pwrite64(int descriptor, const void *data, size_t size, off_t offset) __attribute__((alias("pwrite")));
int truncate64(const char *path, off_t size) __attribute__((alias("truncate")));
int ftruncate64(int descriptor, off_t size) __attribute__((alias("ftruncate")));
