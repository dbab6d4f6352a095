/* The watchdog: a worker that blocks every signal and never returns ends with its master. */
#include "support.h"

#include "../../csrc/watchdog.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { MASTER, WORKER };

static int connection[2]; /* the control connection */
static int reports[2];    /* a pipe; every descendant of the worker holds its writing end */

static void block_all_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    CHECK_EQUAL(sigprocmask(SIG_BLOCK, &all, NULL), 0);
}

static void report(char word)
{
    CHECK_EQUAL(write(reports[1], &word, 1), 1);
}

static void spin_forever(void)
{
    for (volatile uint64_t turns = 0;; turns++) {
    }
}

static void start_watchdog(void)
{
    close(connection[MASTER]);
    CHECK_EQUAL(pmp_watchdog_start(connection[WORKER]), 0);
}

static int spin_as_worker(void *argument)
{
    (void)argument;
    block_all_signals();
    start_watchdog();
    report('s');
    spin_forever();
    return 0;
}

/* A worker that leads its group, as the spawner starts them, and has a child of its own. */
static int spin_with_child(void *argument)
{
    /* Ends the child if the watchdog fails; no other process would. */
    const struct rlimit cpu_s = {20, 20};
    CHECK_EQUAL(setrlimit(RLIMIT_CPU, &cpu_s), 0);
    CHECK_EQUAL(setpgid(0, 0), 0);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(connection[MASTER]);
        close(connection[WORKER]);
        block_all_signals();
        spin_forever();
    }
    return spin_as_worker(argument);
}

static void open_channels(void)
{
    CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, connection), 0);
    CHECK_EQUAL(pipe(reports), 0);
}

static pid_t start_worker(int (*body)(void *))
{
    open_channels();
    const pid_t worker = start_child(body, NULL);
    close(connection[WORKER]);
    close(reports[1]);
    return worker;
}

static void expect_report(char expected)
{
    char word = 0;
    CHECK_EQUAL(read(reports[0], &word, 1), 1);
    CHECK_EQUAL(word, expected);
}

/* The end of the pipe: no process that could write to it is alive. */
static void expect_all_gone(void)
{
    char word;
    CHECK_EQUAL(read(reports[0], &word, 1), 0);
    close(reports[0]);
}

static void expect_killed(pid_t worker)
{
    const int status = wait_for_child(worker);
    CHECK(WIFSIGNALED(status));
    CHECK_EQUAL(WTERMSIG(status), SIGKILL);
}

static void spinning_worker_ends_with_its_master(void)
{
    const pid_t worker = start_worker(spin_as_worker);
    expect_report('s');
    close(connection[MASTER]);
    expect_killed(worker); /* but not this process, which is in the same group */
    expect_all_gone();
}

static void group_of_a_leader_ends_with_it(void)
{
    const pid_t worker = start_worker(spin_with_child);
    expect_report('s');
    close(connection[MASTER]);
    expect_killed(worker);
    expect_all_gone();
}

static void master_gone_before_the_start_is_noticed(void)
{
    open_channels();
    close(connection[MASTER]);
    const pid_t worker = start_child(spin_as_worker, NULL);
    close(connection[WORKER]);
    close(reports[1]);
    expect_killed(worker);
    close(reports[0]);
}

/* Leaves data unread in the connection for a while, then reads it. */
static int read_late(void *argument)
{
    char byte;
    struct rusage usage;
    (void)argument;
    start_watchdog();
    CHECK_EQUAL(recv(connection[WORKER], &byte, 1, MSG_PEEK), 1);
    const struct pollfd nothing = {.fd = -1};
    poll((struct pollfd *)&nothing, 0, 300); /* time in which the watchdog could misbehave */
    CHECK_EQUAL(read(connection[WORKER], &byte, 1), 1);
    CHECK_EQUAL(byte, 'x');
    getrusage(RUSAGE_SELF, &usage);
    CHECK(usage.ru_utime.tv_sec == 0 && usage.ru_stime.tv_sec == 0);
    CHECK(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec < 150000);
    return 42;
}

static void data_is_not_read_and_costs_no_cpu(void)
{
    const pid_t worker = start_worker(read_late);
    CHECK_EQUAL(write(connection[MASTER], "x", 1), 1);
    const int status = wait_for_child(worker);
    CHECK(WIFEXITED(status));
    CHECK_EQUAL(WEXITSTATUS(status), 42);
    close(connection[MASTER]);
    close(reports[0]);
}

static int check_mask(void *argument)
{
    sigset_t before, after;
    (void)argument;
    sigemptyset(&before);
    sigaddset(&before, SIGUSR2);
    CHECK_EQUAL(sigprocmask(SIG_SETMASK, &before, NULL), 0);
    start_watchdog();
    CHECK_EQUAL(sigprocmask(SIG_SETMASK, NULL, &after), 0);
    for (int number = 1; number < 32; number++) {
        CHECK_EQUAL(sigismember(&after, number), sigismember(&before, number));
    }
    return 42;
}

static void starting_leaves_the_signal_mask_as_it_was(void)
{
    const pid_t worker = start_worker(check_mask);
    const int status = wait_for_child(worker);
    CHECK(WIFEXITED(status));
    CHECK_EQUAL(WEXITSTATUS(status), 42);
    close(connection[MASTER]);
    close(reports[0]);
}

static void no_descriptor_is_an_error(void)
{
    CHECK_EQUAL(pmp_watchdog_start(-1), -EBADF);
}

int main(void)
{
    run("a worker that spins with all signals blocked ends with its master", 60,
        spinning_worker_ends_with_its_master);
    run("the group of a worker that leads it ends, too", 60, group_of_a_leader_ends_with_it);
    run("a master that is gone before the start is noticed", 60,
        master_gone_before_the_start_is_noticed);
    run("data is not read and costs no CPU", 60, data_is_not_read_and_costs_no_cpu);
    run("starting leaves the signal mask as it was", 60, starting_leaves_the_signal_mask_as_it_was);
    run("no descriptor is an error", 60, no_descriptor_is_an_error);
    return 0;
}
