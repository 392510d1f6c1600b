// A layer between programs and the C library that fails one file operation below a folder: loaded by LD_PRELOAD, so that it is met by
// whatever does the writing (Python, Rust, C++). Every operation below the folder is counted; the one with the chosen number fails.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { KILL = -9 };

static char prefix[PATH_MAX];
static long chosen = -1, last = -1;  // numbers of the first and the last operation that fail
static int fault, torn, journal = -1;
static atomic_long calls;
static atomic_long fired;
static long clock_shift;

void faults_arm(const char *folder, long first, long times, int error, int half) {
    strncpy(prefix, folder, sizeof prefix - 1);
    atomic_store(&calls, 0);
    atomic_store(&fired, 0);
    chosen = first;
    last = first < 0 ? -1 : times < 0 ? LONG_MAX : first + times - 1;
    fault = error;
    torn = half;
}
void faults_disarm(void) { prefix[0] = 0; chosen = last = -1; }
void faults_write_down(int descriptor) { journal = descriptor; }
void faults_shift_clock(long seconds) { clock_shift = seconds; }
long faults_calls(void) { return atomic_load(&calls); }
long faults_fired(void) { return atomic_load(&fired); }

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static void real_write(int descriptor, const char *text, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (real(descriptor, text, size) < 0) return;
}

static void full_path(char *out, int folder, const char *path) {
    if (!path) { out[0] = 0; return; }
    if (path[0] == '/') { snprintf(out, PATH_MAX, "%s", path); return; }
    char base[PATH_MAX];
    ssize_t size = 0;
    if (folder == AT_FDCWD) { if (getcwd(base, sizeof base)) size = strlen(base); }
    else { char link[64]; snprintf(link, sizeof link, "/proc/self/fd/%d", folder); size = readlink(link, base, sizeof base - 1); }
    if (size < 0) size = 0;
    base[size] = 0;
    snprintf(out, PATH_MAX, "%s/%s", base, path);
}

static int takes_space(const char *name) {
    return strchr("CWMT", name[0]) != NULL;  // Create, Write, Mkdir, Truncate
}

// Whether this operation fails now; sets errno, or does not come back.
static int fails(const char *name, const char *path) {
    if (!prefix[0] || strncmp(path, prefix, strlen(prefix))) return 0;
    long number = atomic_fetch_add(&calls, 1);
    if (journal >= 0) {
        char line[PATH_MAX + 64];
        int size = snprintf(line, sizeof line, "%s %s\n", name, path + strlen(prefix));
        real_write(journal, line, size);
    }
    if (chosen < 0 || number < chosen || number > last) return 0;
    if (number > chosen && fault == ENOSPC && !takes_space(name)) return 0;
    atomic_fetch_add(&fired, 1);
    if (fault == KILL) { if (torn && name[0] == 'W') return 1; kill(getpid(), SIGKILL); pause(); }
    errno = fault;
    return 1;
}

static int fails_at(const char *name, int folder, const char *path) {
    if (!prefix[0]) return 0;
    char whole[PATH_MAX];
    full_path(whole, folder, path);
    return fails(name, whole);
}

static int fails_on(const char *name, int descriptor) {
    if (!prefix[0]) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fails(name, path);
}

#define OPENING(name, folder, first, pass, ...) \
    int name(__VA_ARGS__, int flags, ...) { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
        if (fails_at(flags & O_CREAT ? "Create" : "open", folder, path)) return -1; \
        REAL(int, name, first int, mode_t); \
        return real pass; \
    }
#define PLAIN const char *,
#define BESIDE int, const char *,
OPENING(open, AT_FDCWD, PLAIN, (path, flags, mode), const char *path)
OPENING(open64, AT_FDCWD, PLAIN, (path, flags, mode), const char *path)
#undef PLAIN
static int at_open(const char *name, int folder, const char *path, int flags, mode_t mode) {
    int (*real)(int, const char *, int, mode_t) = (int (*)(int, const char *, int, mode_t))dlsym(RTLD_NEXT, name);
    if (fails_at(flags & O_CREAT ? "Create" : "open", folder, path)) return -1;
    return real(folder, path, flags, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; va_end(rest);
    return at_open("openat", folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; va_end(rest);
    return at_open("openat64", folder, path, flags, mode);
}
FILE *fopen(const char *path, const char *mode) {
    if (fails_at(mode[0] == 'r' ? "open" : "Create", AT_FDCWD, path)) return NULL;
    REAL(FILE *, fopen, const char *, const char *);
    return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    if (fails_at(mode[0] == 'r' ? "open" : "Create", AT_FDCWD, path)) return NULL;
    REAL(FILE *, fopen64, const char *, const char *);
    return real(path, mode);
}

// A write that fails: with `torn`, half of what was to be written is on the disk before.
static ssize_t broken(int descriptor, const char *data, size_t size) {
    int error = errno;
    if (torn && size > 1) {
        real_write(descriptor, data, size / 2);
        if (fault == KILL) { kill(getpid(), SIGKILL); pause(); }
        if (fault == ENOSPC) return size / 2;  // a full disk takes what there is room for, and nothing the next time
        errno = error;
        return -1;
    }
    if (fault == KILL) { kill(getpid(), SIGKILL); pause(); }
    errno = error;
    return -1;
}
ssize_t write(int descriptor, const void *data, size_t size) {
    if (fails_on("Write", descriptor)) return broken(descriptor, data, size);
    REAL(ssize_t, write, int, const void *, size_t);
    return real(descriptor, data, size);
}
ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    if (fails_on("Write", descriptor)) return broken(descriptor, parts[0].iov_base, parts[0].iov_len);
    REAL(ssize_t, writev, int, const struct iovec *, int);
    return real(descriptor, parts, count);
}
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at) {
    if (fails_on("Write", descriptor)) { if (fault == KILL) { kill(getpid(), SIGKILL); pause(); } return -1; }
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return real(descriptor, data, size, at);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
    if (fails_on("Write", out)) { if (fault == KILL) { kill(getpid(), SIGKILL); pause(); } return -1; }
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    return real(out, in, at, size);
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) {
    if (fails_on("Write", out)) { if (fault == KILL) { kill(getpid(), SIGKILL); pause(); } return -1; }
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    return real(out, in, at, size);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    if (fails_on("Write", out)) { if (fault == KILL) { kill(getpid(), SIGKILL); pause(); } return -1; }
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    return real(in, from, out, to, size, flags);
}

#define ON(name, said) int name(int descriptor) { \
    if (fails_on(said, descriptor)) return -1; REAL(int, name, int); return real(descriptor); }
#define CUT(name, size_type) int name(int descriptor, size_type size) { \
    if (fails_on("Truncate", descriptor)) return -1; REAL(int, name, int, size_type); return real(descriptor, size); }
#define AWAY(name) int name(const char *path) { \
    if (fails_at(#name, AT_FDCWD, path)) return -1; REAL(int, name, const char *); return real(path); }
ON(fsync, "fsync")
ON(fdatasync, "fsync")
CUT(ftruncate, off_t)
CUT(ftruncate64, off64_t)
AWAY(unlink)
AWAY(rmdir)
AWAY(remove)
int unlinkat(int folder, const char *path, int flags) {
    if (fails_at("unlink", folder, path)) return -1;
    REAL(int, unlinkat, int, const char *, int);
    return real(folder, path, flags);
}
int mkdir(const char *path, mode_t mode) {
    if (fails_at("Mkdir", AT_FDCWD, path)) return -1;
    REAL(int, mkdir, const char *, mode_t);
    return real(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
    if (fails_at("Mkdir", folder, path)) return -1;
    REAL(int, mkdirat, int, const char *, mode_t);
    return real(folder, path, mode);
}
int rename(const char *from, const char *to) {
    if (fails_at("rename", AT_FDCWD, to)) return -1;
    REAL(int, rename, const char *, const char *);
    return real(from, to);
}
int renameat(int folder, const char *from, int other, const char *to) {
    if (fails_at("rename", other, to)) return -1;
    REAL(int, renameat, int, const char *, int, const char *);
    return real(folder, from, other, to);
}
DIR *opendir(const char *path) {
    if (fails_at("opendir", AT_FDCWD, path)) return NULL;
    REAL(DIR *, opendir, const char *);
    return real(path);
}
DIR *fdopendir(int descriptor) {
    if (fails_on("opendir", descriptor)) return NULL;
    REAL(DIR *, fdopendir, int);
    return real(descriptor);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int status = real(id, now);
    if (id == CLOCK_REALTIME) now->tv_sec += clock_shift;
    return status;
}

// Programs that are started anew: FAULTS="folder|first|times|error|torn", FAULTS_CLOCK="seconds".
__attribute__((constructor)) static void begin(void) {
    const char *shift = getenv("FAULTS_CLOCK"), *told = getenv("FAULTS");
    if (shift) clock_shift = atol(shift);
    if (!told) return;
    char folder[PATH_MAX] = "";
    long first = -1, times = 1;
    int error = 0, half = 0;
    if (sscanf(told, "%4095[^|]|%ld|%ld|%d|%d", folder, &first, &times, &error, &half) == 5) faults_arm(folder, first, times, error, half);
}
