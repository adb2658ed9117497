/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lets User-mode Linux run on processors with more registers than it knows.
 *
 * It moves the registers of its processes in a buffer of 2696 bytes; a
 * kernel takes them back only whole, and with AMX they are larger.  What is
 * beyond the buffer no program in a guest uses: it would have to ask for it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define KNOWN 0x3ffULL          /* up to the protection keys */
#define COMPONENTS 512          /* where the mask of what is held begins */

typedef long call(int, pid_t, void *, void *);

static char whole[1 << 16];

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static long move(call *real, int request, pid_t pid, void *addr,
                 struct iovec *theirs)
{
    struct iovec all = { whole, sizeof whole };
    uint64_t held;
    long status = real(PTRACE_GETREGSET, pid, addr, &all);

    if (status)
        return status;
    if (request == PTRACE_GETREGSET) {
        theirs->iov_len = least(theirs->iov_len, all.iov_len);
        memcpy(theirs->iov_base, whole, theirs->iov_len);
        return 0;
    }
    memset(whole, 0, all.iov_len);
    memcpy(whole, theirs->iov_base, least(theirs->iov_len, all.iov_len));
    memcpy(&held, whole + COMPONENTS, sizeof held);
    held &= KNOWN;
    memcpy(whole + COMPONENTS, &held, sizeof held);
    return real(request, pid, addr, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    static call *real;
    va_list rest;
    pid_t pid;
    void *addr, *data;

    va_start(rest, request);
    pid = va_arg(rest, pid_t);
    addr = va_arg(rest, void *);
    data = va_arg(rest, void *);
    va_end(rest);
    if (!real)
        real = (call *)dlsym(RTLD_NEXT, "ptrace");
    if ((request == PTRACE_GETREGSET || request == PTRACE_SETREGSET)
        && addr == (void *)NT_X86_XSTATE)
        return move(real, request, pid, addr, data);
    return real(request, pid, addr, data);
}
