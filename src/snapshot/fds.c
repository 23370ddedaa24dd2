/*
 * Descriptors. Of each descriptor of the image there is a spare duplicate at a high number, so that
 * one a job closed or replaced can be put back: the very same open file, not another of that name.
 * What a job opened is closed. The room's own descriptors stand beside the spares.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/snapshot_int.h"

enum {
    REOPEN_FLAGS = O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_DIRECT | O_NOATIME |
                   O_LARGEFILE
};

struct dirent64_head {
    uint64_t inode;
    int64_t offset;
    uint16_t bytes;
    uint8_t type;
    char name[];
};

int fds_own(int fd)
{
    long to = raw3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FD_OWN_LEAST);

    if (to == -EINVAL || to == -EMFILE) /* a small limit */
        to = raw3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
    raw1(SYS_close, fd);
    if (to >= FDS_MAX) {
        raw1(SYS_close, to);
        return -EMFILE;
    }
    if (to >= 0)
        bit_set(snapshot_self->fd_known, (int)to, true);
    return (int)to;
}

static void close_own(int *fd)
{
    if (*fd < 0)
        return;
    raw1(SYS_close, *fd);
    bit_set(snapshot_self->fd_known, *fd, false);
    *fd = -1;
}

static int open_own(const char *path, int flags)
{
    long fd = raw4(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, 0);

    return fd < 0 ? (int)fd : fds_own((int)fd);
}

static int open_files_of_process(void)
{
    struct snapshot_self *s = snapshot_self;
    int rc;

    close_own(&s->fd.pagemap);
    close_own(&s->fd.statm);
    close_own(&s->fd.fd_folder);
    close_own(&s->fd.task_folder);
    s->fd.statm = open_own("/proc/self/statm", O_RDONLY);
    s->fd.fd_folder = open_own("/proc/self/fd", O_RDONLY | O_DIRECTORY);
    s->fd.task_folder = open_own("/proc/self/task", O_RDONLY | O_DIRECTORY);
    rc = pagemap_open();
    if (rc >= 0)
        rc = s->fd.pagemap = fds_own(rc);
    if (rc < 0 || s->fd.statm < 0 || s->fd.fd_folder < 0 || s->fd.task_folder < 0)
        return rc < 0 ? rc : -ENOENT;
    s->pid = (pid_t)raw1(SYS_getpid, 0);
    return 0;
}

/* /proc/self of a process that is not dumpable belongs to root, so that its own user may not read
 * its pagemap. For the moment of opening it is dumpable. */
int fds_open_own(void)
{
    int rc = open_files_of_process();

    if (rc == -EACCES && raw5(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0) != 1 &&
        raw5(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0) == 0) {
        rc = open_files_of_process();
        raw5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
    return rc;
}

void snapshot_keep_fd(int fd)
{
    struct snapshot_self *s = snapshot_self;

    CHECK(s && fd >= 0 && fd < FDS_MAX);
    bit_set(s->fd_kept, fd, true);
    s->n_fds_open = -1;
}

void snapshot_keep_fd_end(int fd)
{
    struct snapshot_self *s = snapshot_self;

    CHECK(s && fd >= 0 && fd < FDS_MAX);
    bit_set(s->fd_kept, fd, false);
    s->n_fds_open = -1;
}

/* How many are open: the size of /proc/self/fd since Linux 6.2. -1: the kernel does not say. */
static int64_t count_open(void)
{
    struct stat st;

    if (snapshot_self->options.no_scan_ioctl || /* as on Linux 6.1 */
        raw2(SYS_fstat, snapshot_self->fd.fd_folder, (long)&st) < 0 || !S_ISDIR(st.st_mode))
        return -1;
    return st.st_size > 0 ? st.st_size : -1;
}

/* Calls for each open descriptor; closing it meanwhile is fine. */
static int each_open(int (*each)(void *context, int fd), void *context)
{
    _Alignas(8) char bytes[2048];
    long fd =
        raw4(SYS_openat, AT_FDCWD, (long)"/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    long got = fd;
    int rc = 0;

    if (fd < 0)
        return (int)fd;
    while (rc == 0 && (got = raw3(SYS_getdents64, fd, (long)bytes, sizeof(bytes))) > 0) {
        for (long at = 0; rc == 0 && at < got;) {
            const struct dirent64_head *e = (const struct dirent64_head *)(bytes + at);
            int number = 0;
            const char *p = e->name;
            for (; *p >= '0' && *p <= '9'; p++)
                number = number * 10 + *p - '0';
            if (p != e->name && number != (int)fd)
                rc = each(context, number);
            at += e->bytes;
        }
    }
    raw1(SYS_close, fd);
    return rc < 0 ? rc : got < 0 ? (int)got : 0;
}

/* --- recording -------------------------------------------------------------------------------- */

struct recording {
    const struct snapshot_plan *plan;
    struct snapshot_refusal *refusal;
};

static enum snapshot_problem problem_of(const struct stat *st, const char *what)
{
    if (S_ISSOCK(st->st_mode))
        return SNAPSHOT_SOCKET;
    if (S_ISFIFO(st->st_mode) || strncmp(what, "anon_inode:", 11) == 0)
        return SNAPSHOT_PIPE;
    return SNAPSHOT_OK;
}

static void describe(int fd, char *ret, size_t size)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, ret, size - 1);
    ret[n < 0 ? 0 : n] = '\0';
}

static int record(void *context, int fd)
{
    struct recording *r = context;
    struct snapshot_self *s = snapshot_self;
    struct stat st;
    char what[160], text[224];

    if (bit_get(s->fd_kept, fd) || bit_get(s->fd_known, fd))
        return 0;
    if (fd >= FDS_MAX || s->n_fds == FD_SLOTS)
        return snapshot_refuse(r->refusal, SNAPSHOT_TOO_LARGE, EMFILE,
                               "descriptor %d: an image has at most %d, below %d", fd, FD_SLOTS,
                               FDS_MAX);
    if (fstat(fd, &st) < 0)
        return snapshot_refuse(r->refusal, SNAPSHOT_SYSTEM, errno, "descriptor %d", fd);
    describe(fd, what, sizeof(what));
    enum snapshot_problem problem = fd > 2 ? problem_of(&st, what) : SNAPSHOT_OK;
    snprintf(text, sizeof(text), "descriptor %d is %s", fd, what);
    if (problem != SNAPSHOT_OK &&
        !(r->plan && r->plan->accept &&
          r->plan->accept(r->plan->context, problem, fd, NULL, 0, text))) {
        int rc = snapshot_refuse(r->refusal, problem, EBUSY, "%s", text);
        r->refusal->fd = fd;
        return rc;
    }
    int spare = fcntl(fd, F_DUPFD_CLOEXEC, FD_OWN_LEAST);
    if (spare < 0 || spare >= FDS_MAX) {
        if (spare >= 0)
            close(spare);
        return snapshot_refuse(r->refusal, SNAPSHOT_SYSTEM, spare < 0 ? errno : EMFILE,
                               "no spare duplicate of descriptor %d: raise the limit of open files",
                               fd);
    }
    s->fds[s->n_fds++] = (struct image_fd){
        .fd = fd,
        .spare = spare,
        .fd_flags = fcntl(fd, F_GETFD),
        .status_flags = fcntl(fd, F_GETFL),
        /* logs of the server go on from where they are */
        .offset = fd > 2 && S_ISREG(st.st_mode) ? lseek(fd, 0, SEEK_CUR) : -1,
        .dev = st.st_dev,
        .inode = st.st_ino,
    };
    bit_set(s->fd_known, fd, true);
    bit_set(s->fd_known, spare, true);
    return 0;
}

/* The list of descriptors must not grow by spares while it is read. */
struct fd_list {
    int fd[FDS_MAX];
    size_t n;
};

static int add_to_list(void *context, int fd)
{
    struct fd_list *l = context;

    if (l->n == ARRAY_LENGTH(l->fd))
        return -EMFILE;
    l->fd[l->n++] = fd;
    return 0;
}

static bool kcmp_works(void)
{
    const struct snapshot_self *s = snapshot_self;
    pid_t pid = s->pid;

    return raw5(SYS_kcmp, pid, pid, KCMP_FILE, s->fd.statm, s->fd.statm) == 0;
}

int fds_record(const struct snapshot_plan *plan, struct snapshot_refusal *ret)
{
    static struct fd_list list;
    struct snapshot_self *s = snapshot_self;
    struct recording r = { plan, ret };
    int rc;

    list.n = 0;
    s->n_fds = 0;
    s->has_kcmp = kcmp_works();
    rc = each_open(add_to_list, &list);
    if (rc < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc, "/proc/self/fd");
    for (size_t i = 0; i < list.n; i++) {
        rc = record(&r, list.fd[i]);
        if (rc < 0)
            return rc;
    }
    s->n_fds_open = count_open();
    return 0;
}

void fds_forget(void)
{
    struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_fds; i++) {
        bit_set(s->fd_known, s->fds[i].fd, false);
        close_own(&s->fds[i].spare);
    }
    s->n_fds = 0;
    close_own(&s->fd.memory);
    close_own(&s->fd.folder);
    if (s->frozen || s->taking)
        return;
    close_own(&s->fd.pagemap);
    close_own(&s->fd.statm);
    close_own(&s->fd.fd_folder);
    close_own(&s->fd.task_folder);
}

/* --- putting back: no libc -------------------------------------------------------------------- */

static bool is_same_file(const struct image_fd *f)
{
    const struct snapshot_self *s = snapshot_self;
    struct stat st;

    if (s->has_kcmp)
        return raw5(SYS_kcmp, s->pid, s->pid, KCMP_FILE, f->fd, f->spare) == 0;
    return raw2(SYS_fstat, f->fd, (long)&st) == 0 && st.st_dev == f->dev && st.st_ino == f->inode;
}

static int restore_one(struct image_fd *f, struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    long rc = 0;

    if (!is_same_file(f)) {
        rc = raw3(SYS_dup3, f->spare, f->fd, f->fd_flags & FD_CLOEXEC ? O_CLOEXEC : 0);
        s->stats.fds_restored++;
        s->n_fds_open = -1;
    } else if (raw2(SYS_fcntl, f->fd, F_GETFD) != f->fd_flags) {
        rc = raw3(SYS_fcntl, f->fd, F_SETFD, f->fd_flags);
    }
    if (rc < 0)
        return snapshot_refuse(ret, SNAPSHOT_LOST_FD, (int)-rc,
                               "the job closed descriptor %d of the image and its spare %d", f->fd,
                               f->spare);
    if (raw2(SYS_fcntl, f->fd, F_GETFL) != f->status_flags)
        raw3(SYS_fcntl, f->fd, F_SETFL, f->status_flags);
    if (f->offset >= 0)
        raw3(SYS_lseek, f->fd, f->offset, SEEK_SET);
    return 0;
}

static int close_unknown(void *context, int fd)
{
    struct snapshot_self *s = snapshot_self;

    (void)context;
    if (!bit_get(s->fd_known, fd) && !bit_get(s->fd_kept, fd)) {
        raw1(SYS_close, fd);
        s->stats.fds_closed++;
    }
    return 0;
}

static int next_known(int fd)
{
    const struct snapshot_self *s = snapshot_self;

    while (fd < FDS_MAX) {
        uint64_t bits = (s->fd_known[fd / 64] | s->fd_kept[fd / 64]) >> (fd % 64);
        if (bits)
            return fd + __builtin_ctzll(bits);
        fd = (fd / 64 + 1) * 64;
    }
    return FDS_MAX;
}

/* The kernel does not count. What a job opens gets the lowest number that is free: if that still is
 * free there is hardly anything, and what lies between the known ones is closed unseen. */
static bool close_gaps(void)
{
    const struct snapshot_self *s = snapshot_self;
    int lowest = 0;

    while (next_known(lowest) == lowest)
        lowest++;
    long got = raw3(SYS_fcntl, s->fd.statm, F_DUPFD_CLOEXEC, lowest);
    if (got >= 0)
        raw1(SYS_close, got);
    if (got != lowest)
        return false;
    for (int fd = lowest; fd < FDS_MAX;) {
        int known = next_known(fd);
        if (known > fd)
            raw3(SYS_close_range, fd, known == FDS_MAX ? (long)UINT32_MAX : known - 1, 0);
        fd = known + 1;
    }
    return true;
}

static bool own_are_open(void)
{
    const struct snapshot_self *s = snapshot_self;
    const int own[] = { s->fd.memory, s->fd.pagemap, s->fd.statm, s->fd.task_folder, s->fd.folder };
    struct stat st;

    for (size_t i = 0; i < ARRAY_LENGTH(own); i++)
        if (raw2(SYS_fcntl, own[i], F_GETFD) != FD_CLOEXEC)
            return false;
    return raw2(SYS_fstat, s->fd.folder, (long)&st) == 0 && st.st_ino == s->folder_inode &&
           st.st_dev == s->folder_dev;
}

static void path_of(int fd, char *ret)
{
    char digits[12];
    int n = 0;

    for (const char *p = "/proc/self/fd/"; *p; p++)
        *ret++ = *p;
    do {
        digits[n++] = (char)('0' + fd % 10);
        fd /= 10;
    } while (fd > 0);
    while (n > 0)
        *ret++ = digits[--n];
    *ret = '\0';
}

void fds_make_own(void)
{
    struct snapshot_self *s = snapshot_self;
    char path[32];

    for (uint32_t i = 0; i < s->n_fds; i++) {
        const struct image_fd *f = &s->fds[i];
        if (f->offset < 0)
            continue;
        path_of(f->spare, path);
        long to =
            raw4(SYS_openat, AT_FDCWD, (long)path, (f->status_flags & REOPEN_FLAGS) | O_CLOEXEC, 0);
        if (to < 0) /* a file of somebody else: it stays shared */
            continue;
        raw3(SYS_dup3, to, f->spare, O_CLOEXEC);
        raw3(SYS_dup3, to, f->fd, f->fd_flags & FD_CLOEXEC ? O_CLOEXEC : 0);
        raw1(SYS_close, to);
    }
}

int snapshot_replace_fd(int fd, int with)
{
    struct snapshot_self *s = snapshot_self;
    struct stat st;

    CHECK(s && s->magic == SELF_MAGIC);
    for (uint32_t i = 0; i < s->n_fds; i++) {
        struct image_fd *f = &s->fds[i];
        if (f->fd != fd)
            continue;
        if (fstat(with, &st) < 0 || dup3(with, f->spare, O_CLOEXEC) < 0 ||
            dup3(with, f->fd, f->fd_flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0 ||
            fcntl(f->fd, F_SETFL, f->status_flags) < 0)
            return -errno;
        f->dev = st.st_dev;
        f->inode = st.st_ino;
        return 0;
    }
    return -ENOENT;
}

int fds_restore(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    int64_t open_now;
    int rc;

    for (uint32_t i = 0; i < s->n_fds; i++) {
        rc = restore_one(&s->fds[i], ret);
        if (rc < 0)
            return rc;
    }
    open_now = count_open();
    if (open_now >= 0 && open_now == s->n_fds_open)
        return 0;
    if (!own_are_open())
        return snapshot_refuse(ret, SNAPSHOT_LOST_FD, EBADF,
                               "the job closed descriptors of the snapshot itself");
    if (open_now < 0 && close_gaps())
        return 0;
    s->stats.slow_fds++;
    rc = each_open(close_unknown, NULL);
    if (rc < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc, "/proc/self/fd");
    s->n_fds_open = count_open();
    return 0;
}
