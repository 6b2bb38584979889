/* Counts the operations of a process on the files below a folder, and injects a fault into one operation.

   Loaded with LD_PRELOAD. `arm` starts the count. Operations are counted in the order in which they occur, from 0. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { READ = 1, WRITE = 2, REMOVE = 4 };
enum action { COUNT, SIGNAL, FAIL, VANISH };

static char folder[PATH_MAX];
static int kinds, action, value;
static long chosen;
static long *counter;

void arm(const char *below, int counted_kinds, int chosen_action, int chosen_value, long at, long *count) {
    action = COUNT;
    strncpy(folder, below, sizeof folder - 1);
    kinds = counted_kinds, value = chosen_value, chosen = at, counter = count, *counter = 0;
    action = chosen_action;
}

static bool is_below(const char *path) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static bool is_named_below(int base, const char *path) {
    char name[PATH_MAX] = "", link[64];
    if (!counter || !path) return false;
    if (path[0] != '/') {
        snprintf(link, sizeof link, base == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", base);
        ssize_t length = readlink(link, name, sizeof name - 1);
        if (length < 0) return false;
        name[length] = '/', name[length + 1] = 0;
    }
    strncat(name, path, sizeof name - strlen(name) - 1);
    return is_below(name);
}

static bool is_open_below(int file) {
    char name[PATH_MAX] = "", link[64];
    if (!counter) return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return readlink(link, name, sizeof name - 1) > 0 && is_below(name);
}

/* Rename the folder `out`, as another process does that removes the folder. */
static void vanish(void) {
    char from[PATH_MAX + 8], to[PATH_MAX + 8];
    snprintf(from, sizeof from, "%s/out", folder);
    snprintf(to, sizeof to, "%s/gone", folder);
    syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* Count an operation. Return true if the operation has to fail; `last` says that this operation receives the signal. */
static bool counted(bool below, int kind, bool *last) {
    if (!below || !(kinds & kind)) return false;
    long number = __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
    if (action == SIGNAL && number == chosen) {
        if (last && value == SIGKILL) *last = true;
        else kill(getpid(), value);
    }
    if (action == VANISH && number == chosen) vanish();
    /* A full disk stays full. */
    if (action == FAIL && number >= chosen) return errno = value, true;
    return false;
}

#define FAILING(below, kind) if (counted(below, kind, NULL)) return -1

static int open_file(int base, const char *path, int flags, mode_t mode) {
    bool writing = flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC);
    FAILING(is_named_below(base, path), writing ? WRITE : READ);
    return syscall(SYS_openat, base, path, flags, mode);
}

#define MODE(flags) mode_t mode = 0; if (flags & O_CREAT) { \
    va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int openat(int base, const char *path, int flags, ...) { MODE(flags) return open_file(base, path, flags, mode); }
int openat64(int base, const char *path, int flags, ...) { MODE(flags) return open_file(base, path, flags, mode); }

/* A killed process has written the first half of the data. */
ssize_t write(int file, const void *data, size_t size) {
    bool last = false;
    if (counted(is_open_below(file), WRITE, &last)) return -1;
    if (last) { syscall(SYS_write, file, data, size / 2); kill(getpid(), SIGKILL); }
    return syscall(SYS_write, file, data, size);
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t offset) {
    bool last = false;
    if (counted(is_open_below(file), WRITE, &last)) return -1;
    if (last) { syscall(SYS_pwrite64, file, data, size / 2, offset); kill(getpid(), SIGKILL); }
    return syscall(SYS_pwrite64, file, data, size, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    FAILING(is_open_below(file), WRITE);
    return syscall(SYS_writev, file, parts, count);
}

ssize_t sendfile64(int out, int in, off_t *offset, size_t size) {
    FAILING(is_open_below(out), WRITE);
    return syscall(SYS_sendfile, out, in, offset, size);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) { return sendfile64(out, in, offset, size); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    FAILING(is_open_below(out), WRITE);
    return syscall(SYS_copy_file_range, in, from, out, to, size, flags);
}

int fsync(int file) { FAILING(is_open_below(file), WRITE); return syscall(SYS_fsync, file); }
int fdatasync(int file) { FAILING(is_open_below(file), WRITE); return syscall(SYS_fdatasync, file); }
int ftruncate64(int file, off_t size) { FAILING(is_open_below(file), WRITE); return syscall(SYS_ftruncate, file, size); }
int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int renameat2(int old, const char *from, int new, const char *to, unsigned flags) {
    FAILING(is_named_below(new, to), WRITE);
    return syscall(SYS_renameat2, old, from, new, to, flags);
}

int renameat(int old, const char *from, int new, const char *to) { return renameat2(old, from, new, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int mkdirat(int base, const char *path, mode_t mode) {
    FAILING(is_named_below(base, path), WRITE);
    return syscall(SYS_mkdirat, base, path, mode);
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int base, const char *path, int flags) {
    FAILING(is_named_below(base, path), REMOVE);
    return syscall(SYS_unlinkat, base, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
