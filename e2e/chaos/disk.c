/* Faults of disk and clock inside a process, switched from outside through a shared page.
 *
 * Loaded with LD_PRELOAD by the history checker (disk.py has the numbers of the slots). A switch that
 * is off costs one load. Every fault counts itself when it happens.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FULL, SYNC_ERROR, STORE_ERROR, KILL_IN_STORE, KILL_IN_SYNC, CLOCK, HELD_SYNC, KINDS };

/* Switches, from 8 on how often each fault happened, and last in how many processes this is. */
static volatile int64_t nothing[16];
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
    __atomic_add_fetch(&slots[15], 1, __ATOMIC_SEQ_CST);
}

static int of_kind(int fd, const char *part) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

static void happened(int kind) {
    __atomic_add_fetch(&slots[8 + kind], 1, __ATOMIC_SEQ_CST);
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

/* The error of a write, or 0. */
static int refusal(int fd) {
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

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    int error = refusal(fd);
    if (error) {
        errno = error;
        return -1;
    }
    return real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    int error = refusal(fd);
    if (error) {
        errno = error;
        return -1;
    }
    return real(fd, parts, count);
}

int fdatasync(int fd) {
    REAL(fdatasync);
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
    return real(fd);
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
