/* SPDX-License-Identifier: Apache-2.0
 *
 * The verifying writer: numbered 4 KiB records, strictly in order.
 *
 * Record n lies at block n % blocks.  Record n + 1 is begun only when the
 * disk has acknowledged record n (O_DIRECT and O_DSYNC), so whatever a disk
 * held at any one moment is an exact prefix of the sequence: content.py
 * proves it.  Every eight bytes of a record depend on its number, on the
 * stream (one per volume) and on their own place.
 *
 *   pwriter run TARGET STATUS STREAM BLOCKS DELAY_US FIRST
 *   pwriter show STATUS    acknowledged submitted gap_us errors running
 *   pwriter wait STATUS RECORD SECONDS
 *                          until it is acknowledged, or so long; then show
 *   pwriter reset STATUS   forget the longest gap, then as show
 *   pwriter stop STATUS    end after the record in flight, then as show
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RECORD 4096
#define WORDS (RECORD / 8)
#define MAGIC 0x5041545445524e32ull
#define STEP 0x9e3779b97f4a7c15ull

/* Shared with the other commands through a mapped file in the guest's RAM. */
struct status {
    int64_t pid;
    uint64_t acknowledged;      /* last record the disk confirmed */
    uint64_t submitted;         /* last record that was begun */
    uint64_t gap;               /* longest time between confirmations, us */
    uint64_t last;              /* when the last one came, us */
    uint64_t errors;
    uint64_t reset;             /* asks the writer to forget the gap */
};

static volatile sig_atomic_t stopping;

static void on_term(int number)
{
    (void)number;
    stopping = 1;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct status *map(const char *path, int create)
{
    int fd = open(path, O_RDWR | (create ? O_CREAT : 0), 0644);
    struct status *s;

    if (fd < 0 || (create && ftruncate(fd, sizeof *s)))
        die(path);
    s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (s == MAP_FAILED)
        die(path);
    close(fd);
    return s;
}

static void fill(uint64_t *word, uint64_t n, uint64_t stream)
{
    uint64_t seed = (n ^ stream) * STEP;

    seed ^= seed >> 29;
    word[0] = MAGIC;
    word[1] = n;
    word[2] = stream;
    for (int i = 3; i < WORDS; i++)
        word[i] = seed ^ (i * STEP);
}

static void acknowledge(struct status *s, uint64_t n)
{
    uint64_t t = now();

    if (s->reset)
        s->gap = s->reset = 0;
    else if (t - s->last > s->gap)
        s->gap = t - s->last;
    s->last = t;
    __atomic_store_n(&s->acknowledged, n, __ATOMIC_SEQ_CST);
}

static int run(char **v)
{
    struct status *s = map(v[1], 1);
    uint64_t stream = strtoull(v[2], NULL, 0);
    uint64_t blocks = strtoull(v[3], NULL, 0);
    uint64_t delay = strtoull(v[4], NULL, 0);
    uint64_t n = strtoull(v[5], NULL, 0);
    int fd = open(v[0], O_RDWR | O_CREAT | O_DIRECT | O_DSYNC, 0644);
    uint64_t *record;

    if (fd < 0)
        die(v[0]);
    if (posix_memalign((void **)&record, RECORD, RECORD))
        die("posix_memalign");
    signal(SIGTERM, on_term);
    memset(s, 0, sizeof *s);
    s->acknowledged = s->submitted = n - 1;
    s->last = now();
    s->pid = getpid();
    while (!stopping) {
        fill(record, n, stream);
        __atomic_store_n(&s->submitted, n, __ATOMIC_SEQ_CST);
        /* A record that failed may still be on the disk: it is repeated
         * until it is confirmed, and never skipped. */
        while (pwrite(fd, record, RECORD, n % blocks * RECORD) != RECORD) {
            s->errors++;
            if (stopping)
                return 1;
            usleep(100000);
        }
        acknowledge(s, n++);
        if (delay)
            usleep(delay);
    }
    return 0;
}

static int running(struct status *s)
{
    return s->pid && !kill(s->pid, 0);
}

static int show(struct status *s)
{
    int alive = running(s);
    /* Acknowledged is read first and submitted last: the truth lies
     * between them however fast the writer is. */
    uint64_t acknowledged = __atomic_load_n(&s->acknowledged,
                                            __ATOMIC_SEQ_CST);
    uint64_t last = s->last, gap = s->reset ? 0 : s->gap, t = now();

    if (alive && t > last && t - last > gap)
        gap = t - last;
    printf("%llu %llu %llu %llu %d\n", (unsigned long long)acknowledged,
           (unsigned long long)__atomic_load_n(&s->submitted,
                                               __ATOMIC_SEQ_CST),
           (unsigned long long)gap, (unsigned long long)s->errors, alive);
    return 0;
}

/* In the guest: to ask again and again would keep it from writing. */
static int await(char **v)
{
    struct status *s = map(v[0], 0);
    uint64_t record = strtoull(v[1], NULL, 0);
    uint64_t until = now() + strtoull(v[2], NULL, 0) * 1000000;

    while (s->acknowledged < record && now() < until && running(s))
        usleep(2000);
    return show(s);
}

int main(int count, char **v)
{
    struct status *s;

    if (count == 8 && !strcmp(v[1], "run"))
        return run(v + 2);
    if (count == 5 && !strcmp(v[1], "wait"))
        return await(v + 2);
    if (count != 3)
        return 2;
    s = map(v[2], 0);
    if (!strcmp(v[1], "reset")) {
        s->reset = 1;
    } else if (!strcmp(v[1], "stop")) {
        if (running(s))
            kill(s->pid, SIGTERM);
        for (int i = 0; running(s) && i < 2000; i++)
            usleep(5000);
    } else if (strcmp(v[1], "show")) {
        return 2;
    }
    return show(s);
}
