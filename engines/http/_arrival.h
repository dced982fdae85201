/* Arrival: when the kernel took a read's last packet in (SO_TIMESTAMPNS), on the clock of all other stamps; and how
 * long, with such stamps, the reading thread may let arrivals gather before it looks.
 *
 * The kernel's stamp is true however late the read is; a stamp after the read holds the wake-up too. It is
 * CLOCK_REALTIME, so the distance between both clocks is measured once a turn. Where that has just changed (somebody
 * set the clock), where the kernel gives none, or where it isn't between the read before and now, the time
 * after the read is taken, as it would be without all this.
 */
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define CLOCKS_APART_NS 20000 /* between two looks at one clock: else the look was interrupted, and is repeated */
#define CLOCK_SET_NS 100000   /* more than a clock is slewed by between two turns */
#define LOOKS 4

/* A nap costs a timer, a wake-up costs a switch of threads; so naps pay where they spare many wake-ups. They stay
 * well below the time between two reads of one connection, so that hardly ever two are read as one. */
#define PACE_WINDOW_NS 2000000
#define MAX_NAP_NS 400000
#define NAPS_PER_GAP 2.5 /* the mean gap between a connection's reads, in naps */
#define MIN_READS_PER_NAP 8

typedef struct {
    int64_t ahead_ns; /* CLOCK_REALTIME less CLOCK_MONOTONIC */
    char steady;      /* as at the turn before */
} KernelClock;

typedef struct {
    int64_t since_ns, gaps_ns, nap_ns;
    int64_t reads, unstamped, gaps;
} Pace;

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void compare_clocks(KernelClock *clock) {
    int64_t ahead_ns = 0;
    for (int look = 0; look < LOOKS; look++) {
        int64_t before = clock_ns(CLOCK_MONOTONIC), real = clock_ns(CLOCK_REALTIME), after = clock_ns(CLOCK_MONOTONIC);
        ahead_ns = real - before - (after - before) / 2;
        if (after - before < CLOCKS_APART_NS) break;
    }
    int64_t change = ahead_ns - clock->ahead_ns;
    clock->steady = change < CLOCK_SET_NS && change > -CLOCK_SET_NS;
    clock->ahead_ns = ahead_ns;
}

static void ask_for_stamps(int fd) { /* where it's refused, reads are stamped after them */
    int one = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
}

/* recv without waiting; `arrived_ns` is the kernel's stamp on CLOCK_MONOTONIC, 0 where it gave none. */
static ssize_t receive(int fd, char *buffer, size_t size, const KernelClock *clock, int64_t *arrived_ns) {
    union {
        char bytes[CMSG_SPACE(sizeof(struct timespec)) + 64];
        struct cmsghdr aligned;
    } control;
    struct iovec place = {.iov_base = buffer, .iov_len = size};
    struct msghdr message = {.msg_iov = &place, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *arrived_ns = 0;
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
    if (got <= 0 || !clock->steady) return got;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part != NULL; part = CMSG_NXTHDR(&message, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec stamp;
            memcpy(&stamp, CMSG_DATA(part), sizeof stamp);
            *arrived_ns = (int64_t)stamp.tv_sec * 1000000000 + stamp.tv_nsec - clock->ahead_ns;
        }
    return got;
}

/* A read and, but for a connection's first, the time since the read before it. */
static void count_read(Pace *pace, int stamped, int64_t gap_ns) {
    pace->reads += 1;
    pace->unstamped += !stamped;
    pace->gaps += gap_ns > 0;
    pace->gaps_ns += gap_ns;
}

static int64_t choose_nap_ns(const Pace *pace, int64_t elapsed_ns) {
    if (pace->unstamped || !pace->gaps) return 0;
    double nap_ns = (double)pace->gaps_ns / (double)pace->gaps / NAPS_PER_GAP;
    if (nap_ns > MAX_NAP_NS) nap_ns = MAX_NAP_NS;
    return nap_ns * (double)pace->reads / (double)elapsed_ns >= MIN_READS_PER_NAP ? (int64_t)nap_ns : 0;
}

/* How long to let arrivals gather before the next turn; decided anew with every window. */
static int64_t nap_ns(Pace *pace, int64_t now) {
    int64_t elapsed_ns = now - pace->since_ns;
    if (elapsed_ns >= PACE_WINDOW_NS) *pace = (Pace){.since_ns = now, .nap_ns = choose_nap_ns(pace, elapsed_ns)};
    return pace->nap_ns;
}
