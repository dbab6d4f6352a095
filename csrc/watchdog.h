/* The watchdog: ends this process when its master is gone, whatever the process is doing.
 *
 * A thread without a Python state sleeps in poll() on the control connection. When the other
 * end hangs up (the master ended, was killed, or closed the connection), it kills the process
 * with SIGKILL, together with its process group where this process leads it: user code that never returns, holds the
 * interpreter lock or ignores signals cannot prevent it. It costs no CPU time.
 */
#ifndef PMP_WATCHDOG_H
#define PMP_WATCHDOG_H

/* Starts the watchdog on a connected socket that stays open for the life of the process.
 * All signals are blocked in its thread. Data that arrives on the socket is left alone.
 * Returns 0 or a negative errno. Forked children have no watchdog until they start one. */
int pmp_watchdog_start(int descriptor);

#endif
