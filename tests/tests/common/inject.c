// Faults for a program that writes files, by LD_PRELOAD: the calls that change anything below FAULT_FOLDER are
// numbered from 0; at number FAULT_AT happens FAULT_KIND:
//   kill    SIGKILL before the call, a write's first half done     after   SIGKILL after it
//   enospc, eio, edquot    the call fails, a write's first half done       flip    a bit of what is written is another
//   xfsz    as those, with EFBIG after a SIGXFSZ
//   short   half is written, and the call says so        slow    every call takes 60 ms more
// Of writes past the page cache (CALL is "direct", that of others at a position "pwrite"), whatever the number is:
//   plain   files cannot be opened for them     refuse   they are refused     picky   those not from a page's begin are
// FAULT_LOG names a file that gets a line "CALL PATH" per call, "refused PATH" for one that was. FAULT_COUNT names a
// file of 8 zero bytes where a process and its children count together; of them dies who makes the call.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, args) \
    static type(*real) args;   \
    if (!real) real = (type(*) args)dlsym(RTLD_NEXT, #name)

static atomic_long own_calls;

// The number of this call.
static long count(void) {
    static atomic_long *_Atomic shared;
    const char *file = getenv("FAULT_COUNT");
    if (!file) return atomic_fetch_add(&own_calls, 1);
    if (!shared) {
        int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDWR);
        void *at = mmap(0, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        syscall(SYS_close, fd);
        if (at == MAP_FAILED) abort();
        shared = at;
    }
    return atomic_fetch_add(shared, 1);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    pause();
}

static int is(const char *kind) {
    const char *k = getenv("FAULT_KIND");
    return k && !strcmp(k, kind);
}

// Whether this call is the one.
static int hit(const char *call, const char *path) {
    const char *folder = getenv("FAULT_FOLDER"), *at = getenv("FAULT_AT"), *log = getenv("FAULT_LOG");
    size_t size = folder ? strlen(folder) : 0;
    char from_root[8192];
    if (*path != '/') {
        if (!getcwd(from_root, 4096)) return 0;
        size_t cwd = strlen(from_root);
        snprintf(from_root + cwd, 4096, "/%s", path);
        path = from_root;
    }
    if (!folder || strncmp(path, folder, size) || (path[size] && path[size] != '/')) return 0;
    if (is("slow")) usleep(60000);
    long n = count();
    if (log) {
        char line[8400];
        int length = snprintf(line, sizeof line, "%s %s\n", call, path);
        int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644);
        syscall(SYS_write, fd, line, length);
        syscall(SYS_close, fd);
    }
    return at && !is("slow") && n == atol(at);
}

static int hit_fd(const char *call, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return hit(call, path);
}

static int fails(void) {
    if (is("enospc")) return ENOSPC;
    if (is("edquot")) return EDQUOT;
    if (is("xfsz")) {
        raise(SIGXFSZ);
        return EFBIG;
    }
    return is("eio") ? EIO : 0;
}

static const size_t BLOCK = 4096;

// A call that writes, to a descriptor's position where `at` is below 0.
static ssize_t put(int fd, const void *bytes, size_t n, off64_t at) {
    REAL(ssize_t, pwrite64, (int, const void *, size_t, off64_t));
    if (at >= 0) return real(fd, bytes, n, at);
    static ssize_t (*plain)(int, const void *, size_t);
    if (!plain) plain = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return plain(fd, bytes, n);
}

static ssize_t faulty(int fd, const void *bytes, size_t n, off64_t at) {
    int direct = fcntl(fd, F_GETFL) & O_DIRECT;
    if (direct && (is("refuse") || (is("picky") && (uintptr_t)bytes % BLOCK))) {
        hit_fd("refused", fd);
        errno = EINVAL;
        return -1;
    }
    if (!hit_fd(direct ? "direct" : at < 0 ? "write" : "pwrite", fd)) return put(fd, bytes, n, at);
    if (is("flip")) {
        char *copy = aligned_alloc(BLOCK, (n + BLOCK - 1) / BLOCK * BLOCK);
        memcpy(copy, bytes, n);
        copy[n / 2] ^= 1;
        ssize_t done = put(fd, copy, n, at);
        free(copy);
        return done;
    }
    if (is("after")) {
        put(fd, bytes, n, at);
        die();
    }
    size_t half = direct ? n / 2 / BLOCK * BLOCK : n / 2;
    ssize_t done = half ? put(fd, bytes, half, at) : 0;
    if (is("kill")) die();
    int error = fails();
    if (error) {
        errno = error;
        return -1;
    }
    return done ? done : put(fd, bytes, n, at);
}

ssize_t write(int fd, const void *bytes, size_t n) {
    return faulty(fd, bytes, n, -1);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    // Part by part: the first may be short, and says so.
    for (int i = 0; i < n; i++)
        if (parts[i].iov_len) return faulty(fd, parts[i].iov_base, parts[i].iov_len, -1);
    return 0;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
    return faulty(fd, bytes, n, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    return faulty(fd, bytes, n, at);
}

// Any other call: all or nothing.
#define CALL(hit_, call)              \
    do {                              \
        if (!(hit_)) return call;     \
        if (is("kill")) die();        \
        int error = fails();          \
        if (error) {                  \
            errno = error;            \
            return -1;                \
        }                             \
        int done = call;              \
        if (is("after")) die();       \
        return done;                  \
    } while (0)

int open64(const char *path, int flags, ...) {
    REAL(int, open64, (const char *, int, ...));
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;
    va_end(list);
    if (flags & O_DIRECT && is("plain")) {
        errno = EINVAL;
        return -1;
    }
    CALL(flags & O_CREAT && hit("open", path), real(path, flags, mode));
}

int open(const char *path, int flags, ...) {
    REAL(int, open, (const char *, int, ...));
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;
    va_end(list);
    CALL(flags & O_CREAT && hit("open", path), real(path, flags, mode));
}

int ftruncate64(int fd, off64_t size) {
    REAL(int, ftruncate64, (int, off64_t));
    CALL(hit_fd("ftruncate", fd), real(fd, size));
}

int ftruncate(int fd, off_t size) {
    REAL(int, ftruncate, (int, off_t));
    CALL(hit_fd("ftruncate", fd), real(fd, size));
}

// Of these two the value is the error.
#define RESERVE(name)                             \
    int name(int fd, off64_t at, off64_t size) {  \
        REAL(int, name, (int, off64_t, off64_t)); \
        if (!hit_fd("fallocate", fd)) return real(fd, at, size); \
        if (is("kill")) die();                    \
        int error = fails();                      \
        if (error) return error;                  \
        int done = real(fd, at, size);            \
        if (is("after")) die();                   \
        return done;                              \
    }
RESERVE(posix_fallocate64)
RESERVE(posix_fallocate)

int fdatasync(int fd) {
    REAL(int, fdatasync, (int));
    CALL(hit_fd("fsync", fd), real(fd));
}

int fchmod(int fd, mode_t mode) {
    REAL(int, fchmod, (int, mode_t));
    CALL(hit_fd("chmod", fd), real(fd, mode));
}

int chmod(const char *path, mode_t mode) {
    REAL(int, chmod, (const char *, mode_t));
    CALL(hit("chmod", path), real(path, mode));
}

int rmdir(const char *path) {
    REAL(int, rmdir, (const char *));
    CALL(hit("rmdir", path), real(path));
}

int link(const char *from, const char *to) {
    REAL(int, link, (const char *, const char *));
    CALL(hit("link", to), real(from, to));
}

int symlink(const char *from, const char *to) {
    REAL(int, symlink, (const char *, const char *));
    CALL(hit("link", to), real(from, to));
}

int fsync(int fd) {
    REAL(int, fsync, (int));
    CALL(hit_fd("fsync", fd), real(fd));
}

int rename(const char *from, const char *to) {
    REAL(int, rename, (const char *, const char *));
    CALL(hit("rename", to), real(from, to));
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(int, renameat2, (int, const char *, int, const char *, unsigned));
    CALL(hit("renameat2", to), real(a, from, b, to, flags));
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, (const char *, mode_t));
    CALL(hit("mkdir", path), real(path, mode));
}

int unlink(const char *path) {
    REAL(int, unlink, (const char *));
    CALL(hit("unlink", path), real(path));
}

int unlinkat(int folder, const char *name, int flags) {
    REAL(int, unlinkat, (int, const char *, int));
    CALL(*name == '/' ? hit("unlinkat", name) : hit_fd("unlinkat", folder), real(folder, name, flags));
}
