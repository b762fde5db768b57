/* Faults of disk and clock inside a process, switched from outside through a shared page.
 *
 * Loaded with LD_PRELOAD by the history checker (disk.py has the numbers of the slots). A switch that
 * is off costs one load. Every fault counts itself when it happens.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    FULL, SYNC_ERROR, STORE_ERROR, KILL_IN_STORE, KILL_IN_SYNC, CLOCK, HELD_SYNC, SYNC_LIES,
    READ_ERROR, SLOW_STORE, CATALOG_FULL, CATALOG_SYNC_ERROR, KILL_IN_CATALOG, CATALOG_SYNC_LIES,
    POWER_CUT
};

/* Switches, from 16 on how often each fault happened, and last in how many processes this is. */
enum { COUNTS = 16, LOADED = 31, SLOTS = 32 };
static volatile int64_t nothing[SLOTS];
static volatile int64_t *slots = nothing;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_SWITCHES");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED)
        return;
    slots = page;
    __atomic_add_fetch(&slots[LOADED], 1, __ATOMIC_SEQ_CST);
}

/* The length of the path of an open file, or -1. */
static ssize_t path_of(int fd, char path[PATH_MAX]) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length >= 0)
        path[length] = 0;
    return length;
}

static int of_kind(int fd, const char *part) {
    char path[PATH_MAX];
    return path_of(fd, path) >= 0 && strstr(path, part) != NULL;
}

static void happened(int kind) {
    __atomic_add_fetch(&slots[COUNTS + kind], 1, __ATOMIC_SEQ_CST);
}

/* For faults that happen once: whoever takes the switch has it. */
static int taken(int kind) {
    if (!__atomic_exchange_n(&slots[kind], 0, __ATOMIC_SEQ_CST))
        return 0;
    happened(kind);
    return 1;
}

static void end(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Whether this call is the one that a switch counts down to. */
static int counted_down(int kind) {
    int64_t left = slots[kind];
    while (left > 0)
        if (__atomic_compare_exchange_n(
                &slots[kind], &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            break;
    if (left == 1)
        happened(kind);
    return left == 1;
}

/* A store that takes its time, as many milliseconds as the switch says for each call. */
static void slow(int fd) {
    int64_t wait = slots[SLOW_STORE];
    if (wait && of_kind(fd, ".parquet")) {
        happened(SLOW_STORE);
        usleep(wait * 1000);
    }
}

/* The error of a write, or 0. */
static int refusal(int fd) {
    slow(fd);
    if (slots[CATALOG_FULL] && of_kind(fd, ".sqlite")) {
        happened(CATALOG_FULL);
        return ENOSPC;
    }
    if (slots[KILL_IN_CATALOG] && of_kind(fd, ".sqlite") && counted_down(KILL_IN_CATALOG))
        end();
    if (slots[FULL] && of_kind(fd, ".wal")) {
        happened(FULL);
        return ENOSPC;
    }
    if (slots[KILL_IN_STORE] && of_kind(fd, ".parquet") && taken(KILL_IN_STORE))
        end();
    if (slots[STORE_ERROR] && of_kind(fd, ".parquet")) {
        happened(STORE_ERROR);
        return EIO;
    }
    return 0;
}

/* The error of a read, or 0. */
static int unreadable(int fd) {
    slow(fd);
    if (slots[READ_ERROR] && of_kind(fd, ".parquet")) {
        happened(READ_ERROR);
        return EIO;
    }
    return 0;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* While syncs lie, or before the power is cut, what a write is about to replace is kept in a file
 * beside the switches, one for each file that is written, for disk.py to put back when the process
 * was killed: position, size of the file, number of the bytes kept, length of the path; the path;
 * the bytes. Files that are made, cut, renamed or removed are so at once. */
static pthread_mutex_t keeping = PTHREAD_MUTEX_INITIALIZER;

/* Whether the disk says that this file is synced when it is not. */
static int lies(int fd) {
    return (slots[SYNC_LIES] && of_kind(fd, ".wal"))
        || (slots[CATALOG_SYNC_LIES] && of_kind(fd, ".sqlite"));
}

static int loses_power(int fd) {
    return slots[POWER_CUT] && (of_kind(fd, ".wal") || of_kind(fd, ".sqlite"));
}

static void unsynced_path(const struct stat *status, char path[PATH_MAX]) {
    const char *switches = getenv("CHAOS_SWITCHES");
    snprintf(path, PATH_MAX, "%s.unsynced-%ju", switches, (uintmax_t)status->st_ino);
}

/* Position -1 is where the file stands. */
static void keep(int fd, size_t count, off_t at) {
    if (!lies(fd) && !loses_power(fd))
        return;
    if (at < 0)
        at = lseek(fd, 0, SEEK_CUR);
    char path[PATH_MAX], target[PATH_MAX];
    ssize_t length = path_of(fd, path);
    struct stat status;
    /* The process itself may not be able to read it. */
    int source = open(path, O_RDONLY | O_CLOEXEC);
    if (length < 0 || at < 0 || source < 0 || fstat(fd, &status) < 0)
        abort();
    int64_t head[4] = {at, status.st_size, 0, length};
    char *record = malloc(sizeof head + length + count);
    if (!record)
        abort();
    ssize_t kept = pread(source, record + sizeof head + length, count, at);
    close(source);
    head[2] = kept;
    memcpy(record, head, sizeof head);
    memcpy(record + sizeof head, path, length);
    ssize_t size = sizeof head + length + kept;
    unsynced_path(&status, target);
    pthread_mutex_lock(&keeping);
    int file = open(target, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (kept < 0 || file < 0 || write(file, record, size) != size)
        abort();
    close(file);
    pthread_mutex_unlock(&keeping);
    free(record);
}

/* What was kept of a file is not taken back once a real sync of it has succeeded. */
static void synced(int fd) {
    char path[PATH_MAX];
    struct stat status;
    int is_kept = of_kind(fd, ".wal") || of_kind(fd, ".sqlite");
    if (slots == nothing || !is_kept || fstat(fd, &status) < 0)
        return;
    pthread_mutex_lock(&keeping);
    unsynced_path(&status, path);
    if (truncate(path, 0) < 0 && errno != ENOENT)
        abort();
    pthread_mutex_unlock(&keeping);
    if (loses_power(fd))
        happened(POWER_CUT);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    int error = refusal(fd);
    if (error) {
        errno = error;
        return -1;
    }
    keep(fd, count, -1);
    return real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    int error = refusal(fd);
    if (error) {
        errno = error;
        return -1;
    }
    size_t all = 0;
    for (int part = 0; part < count; part++)
        all += parts[part].iov_len;
    keep(fd, all, -1);
    return real(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    int error = refusal(fd);
    if (error) {
        errno = error;
        return -1;
    }
    keep(fd, count, at);
    return real(fd, bytes, count, at);
}

ssize_t read(int fd, void *bytes, size_t count) {
    REAL(read);
    int error = unreadable(fd);
    if (error) {
        errno = error;
        return -1;
    }
    return real(fd, bytes, count);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
    REAL(pread64);
    int error = unreadable(fd);
    if (error) {
        errno = error;
        return -1;
    }
    return real(fd, bytes, count, at);
}

/* SQLite has fsync or fdatasync, as it was compiled. */
static int catalog_sync_fails(int fd) {
    if (!slots[CATALOG_SYNC_ERROR] || !of_kind(fd, ".sqlite"))
        return 0;
    happened(CATALOG_SYNC_ERROR);
    errno = EIO;
    return 1;
}

/* A sync that does nothing, or one that does what it says. */
static int sync_of(int fd, int (*real)(int)) {
    if (lies(fd)) {
        happened(of_kind(fd, ".wal") ? SYNC_LIES : CATALOG_SYNC_LIES);
        return 0;
    }
    int result = real(fd);
    if (result == 0)
        synced(fd);
    return result;
}

int fsync(int fd) {
    REAL(fsync);
    return catalog_sync_fails(fd) ? -1 : sync_of(fd, real);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    if (catalog_sync_fails(fd))
        return -1;
    if ((slots[SYNC_ERROR] || slots[KILL_IN_SYNC] || slots[HELD_SYNC]) && of_kind(fd, ".wal")) {
        if (slots[HELD_SYNC])
            happened(HELD_SYNC);
        while (slots[HELD_SYNC])
            usleep(1000);
        if (taken(KILL_IN_SYNC))
            end();
        if (taken(SYNC_ERROR)) {
            errno = EIO;
            return -1;
        }
    }
    return sync_of(fd, real);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && result == 0 && slots[CLOCK]) {
        now->tv_sec += slots[CLOCK];
        happened(CLOCK);
    }
    return result;
}
