// SPDX-License-Identifier: Apache-2.0
// Kills qemu-img and whoever started it in front of its N-th change to a
// file, counted over all qemu-img processes of one operation.
//
// cc -shared -fPIC -O2 -o killer.so killer.c -ldl; LD_PRELOAD it with
//   KILLER_COUNTER  a file of eight zero bytes: where the changes are counted
//   KILLER_AT       N; not given or 0: count only
//
// It also lets LUKS's key stretching believe that the CPU is a thousand
// times slower, so that making a layer takes no second of measuring.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

static _Atomic long *counter;
static long at;

__attribute__((constructor)) static void prepare(void)
{
    const char *name = getenv("KILLER_COUNTER");
    const char *number = getenv("KILLER_AT");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;

    at = number ? atol(number) : 0;
    if (fd >= 0) {
        void *place = mmap(NULL, sizeof(*counter), PROT_READ | PROT_WRITE,
                           MAP_SHARED, fd, 0);
        counter = place == MAP_FAILED ? NULL : place;
        close(fd);
    }
}

static void change(void)
{
    if (counter && atomic_fetch_add(counter, 1) + 1 == at) {
        kill(getppid(), SIGKILL);
        kill(getpid(), SIGKILL);
        pause();
    }
}

#define NEXT(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t where)
{
    change();
    return NEXT(pwrite64)(fd, data, size, where);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t where)
{
    change();
    return NEXT(pwritev64)(fd, parts, count, where);
}

int fallocate64(int fd, int mode, off64_t where, off64_t size)
{
    change();
    return NEXT(fallocate64)(fd, mode, where, size);
}

int ftruncate64(int fd, off64_t size)
{
    change();
    return NEXT(ftruncate64)(fd, size);
}

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *where,
                        size_t size, unsigned flags)
{
    change();
    return NEXT(copy_file_range)(from, start, to, where, size, flags);
}

int getrusage(__rusage_who_t who, struct rusage *used)
{
    int status = NEXT(getrusage)(who, used);
    long long spent = used->ru_utime.tv_sec * 1000000LL
                      + used->ru_utime.tv_usec;

    spent *= 1000;
    used->ru_utime.tv_sec = spent / 1000000;
    used->ru_utime.tv_usec = spent % 1000000;
    return status;
}
