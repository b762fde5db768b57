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
#include <stdarg.h>
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
    POWER_CUT, DIRECTORY_LIES
};

/* Switches, from 16 on how often each fault happened, and last in how many processes this is. */
enum { COUNTS = 16, LOADED = 32, SLOTS = 33 };
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

/* Whether a path is of a file of a log: a segment, also a spare one, its span or its label. */
static int names_log(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return strstr(path, ".wal") || strncmp(name, "spare-", 6) == 0
        || strcmp(name, "span") == 0 || strcmp(name, "span.new") == 0
        || strcmp(name, "label") == 0 || strcmp(name, "label.new") == 0;
}

static int names_catalog(const char *path) {
    return strstr(path, ".sqlite") != NULL;
}

static int of_log(int fd) {
    char path[PATH_MAX];
    return path_of(fd, path) >= 0 && names_log(path);
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
    if (slots[FULL] && of_log(fd)) {
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
 * the bytes. Likewise for each directory which names in it came, went or changed since it was
 * synced, with a second link to every file that lost its name. Files are cut at once. */
static pthread_mutex_t keeping = PTHREAD_MUTEX_INITIALIZER;

/* Whether the disk says that this file is synced when it is not. */
static int lies(int fd) {
    return (slots[SYNC_LIES] && of_log(fd))
        || (slots[CATALOG_SYNC_LIES] && of_kind(fd, ".sqlite"));
}

static int loses_power(int fd) {
    return slots[POWER_CUT] && (of_log(fd) || of_kind(fd, ".sqlite"));
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
    int is_kept = of_log(fd) || of_kind(fd, ".sqlite");
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

enum owner { NOBODY, LOG, CATALOG };

/* Whose names in directories are kept at the moment: those of this path, or nobody's. */
static enum owner keeps_name(const char *path) {
    if (names_log(path))
        return slots[SYNC_LIES] || slots[POWER_CUT] || slots[DIRECTORY_LIES] ? LOG : NOBODY;
    if (names_catalog(path))
        return slots[CATALOG_SYNC_LIES] || slots[POWER_CUT] ? CATALOG : NOBODY;
    return NOBODY;
}

/* The notes of the names of one owner in one directory. */
static void names_path(enum owner owner, const struct stat *directory, char path[PATH_MAX]) {
    const char *whose = owner == LOG ? "log" : "catalog";
    snprintf(path, PATH_MAX, "%s.names-%s-%ju", getenv("CHAOS_SWITCHES"), whose,
        (uintmax_t)directory->st_ino);
}

/* Notes what was done, each field ended by a zero: what, to which path, from which other one, and
 * where the file is kept that was there before. After it was done: a disk may keep what was not
 * synced, so what a kill leaves without a note just stays. */
static void note_name(enum owner owner, const char *what, const char *path, const char *other,
    const char *kept) {
    char folder[PATH_MAX], notes[PATH_MAX], record[4 * PATH_MAX];
    struct stat status;
    const char *slash = strrchr(path, '/');
    /* The product and the tests name all of these from the root on. */
    if (path[0] != '/')
        abort();
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path) + 1, path);
    if (stat(folder, &status) < 0)
        abort();
    names_path(owner, &status, notes);
    int size = snprintf(record, sizeof record, "%s%c%s%c%s%c%s%c", what, 0, path, 0, other, 0,
        kept, 0);
    int file = open(notes, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0 || write(file, record, size) != size)
        abort();
    close(file);
}

/* A second link to a file that is about to lose its name; empty when there is none. */
static void keep_link(const char *path, char kept[PATH_MAX]) {
    static int64_t number;
    do {
        int64_t next = __atomic_add_fetch(&number, 1, __ATOMIC_SEQ_CST);
        snprintf(kept, PATH_MAX, "%s.kept-%d-%jd", getenv("CHAOS_SWITCHES"), getpid(),
            (intmax_t)next);
    } while (link(path, kept) < 0 && errno == EEXIST);
    if (access(kept, F_OK) < 0)
        kept[0] = 0;
}

/* What happened to the names in a directory is not undone once it was synced and that was no lie. */
static void synced_names(int fd) {
    char path[PATH_MAX];
    struct stat status;
    if (slots == nothing || fstat(fd, &status) < 0 || !S_ISDIR(status.st_mode))
        return;
    for (enum owner owner = LOG; owner <= CATALOG; owner++) {
        names_path(owner, &status, path);
        int is_lie = owner == CATALOG ? slots[CATALOG_SYNC_LIES]
                                      : slots[SYNC_LIES] || slots[DIRECTORY_LIES];
        struct stat notes;
        pthread_mutex_lock(&keeping);
        int is_needed = stat(path, &notes) == 0 && notes.st_size > 0;
        if (owner == LOG && slots[DIRECTORY_LIES] && is_needed)
            happened(DIRECTORY_LIES);
        if (!is_lie && truncate(path, 0) < 0 && errno != ENOENT)
            abort();
        pthread_mutex_unlock(&keeping);
    }
}

/* A file that is new has nothing to be put back from one that had its number before. */
static int open_kept(const char *path, int flags, mode_t mode, enum owner owner,
    int (*real)(const char *, int, ...)) {
    char target[PATH_MAX];
    struct stat status;
    pthread_mutex_lock(&keeping);
    int is_new = access(path, F_OK) < 0;
    int file = real(path, flags, mode);
    int error = errno;
    if (file >= 0 && is_new) {
        if (fstat(file, &status) < 0)
            abort();
        unsynced_path(&status, target);
        unlink(target);
        note_name(owner, "create", path, "", "");
    }
    pthread_mutex_unlock(&keeping);
    errno = error;
    return file;
}

static int opened(const char *path, int flags, mode_t mode, int (*real)(const char *, int, ...)) {
    enum owner owner = flags & O_CREAT ? keeps_name(path) : NOBODY;
    return owner ? open_kept(path, flags, mode, owner, real) : real(path, flags, mode);
}

/* Whether there is a third argument. */
static int makes_file(int flags) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
}

int open(const char *path, int flags, ...) {
    REAL(open);
    va_list more;
    va_start(more, flags);
    mode_t mode = makes_file(flags) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags, mode, real);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list more;
    va_start(more, flags);
    mode_t mode = makes_file(flags) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags, mode, real);
}

int unlink(const char *path) {
    REAL(unlink);
    enum owner owner = keeps_name(path);
    if (!owner)
        return real(path);
    char kept[PATH_MAX];
    pthread_mutex_lock(&keeping);
    keep_link(path, kept);
    int result = real(path);
    int error = errno;
    if (result == 0)
        note_name(owner, "remove", path, "", kept);
    pthread_mutex_unlock(&keeping);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) {
    REAL(rename);
    enum owner owner = keeps_name(to);
    if (!owner)
        return real(from, to);
    char kept[PATH_MAX];
    pthread_mutex_lock(&keeping);
    keep_link(to, kept);
    int result = real(from, to);
    int error = errno;
    if (result == 0)
        note_name(owner, "rename", to, from, kept);
    pthread_mutex_unlock(&keeping);
    errno = error;
    return result;
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
        happened(of_log(fd) ? SYNC_LIES : CATALOG_SYNC_LIES);
        return 0;
    }
    int result = real(fd);
    if (result == 0) {
        synced(fd);
        synced_names(fd);
    }
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
