/*
 * drive.c
 *	  Clients of a service: each picks, calls the provider, and records.
 *
 *	  drive CONFIG.json OUTPUT.jsonl
 *
 * Processes with threads, each of which has its connection to PostgreSQL and
 * to the provider, and one request at a time.  With a rate, requests are due
 * at even intervals, and whichever thread is free takes the next; one that is
 * late shows in its line.  A line of OUTPUT is written, whole, at the end of
 * each request.  README.md has the members of both.
 *
 * A refused pick and a failed call are results; an SQL error ends the program.
 */
#include "drive.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What the processes share. */
typedef struct Schedule
{
	pthread_barrier_t ready;
	int64_t		start;			/* set by whoever is last to be ready */
	int64_t		next;			/* number of the next request */
} Schedule;

static Schedule *schedule;

void
drive_fail(const char *what, const char *why)
{
	fprintf(stderr, "drive: %s: %s\n", what, why);
	_exit(1);
}

/* Microseconds since 1970. */
int64_t
drive_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void
drive_sleep_until(int64_t at)
{
	struct timespec when = {.tv_sec = at / 1000000, .tv_nsec = at % 1000000 * 1000};

	while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &when, NULL) == EINTR)
		;
}

/* Both ends included: xorshift64*. */
int64_t
drive_random(DriveThread *thread, const int64_t span[2])
{
	uint64_t	width = span[1] - span[0] + 1;

	thread->random ^= thread->random >> 12;
	thread->random ^= thread->random << 25;
	thread->random ^= thread->random >> 27;
	return span[0] + (int64_t) ((thread->random * UINT64_C(2685821657736338717) >> 11) % width);
}

/* When a request is due; -1: there is none. */
static int64_t
due(const DriveConfig *config, int64_t number)
{
	int64_t		at = drive_now();

	if (config->requests > 0 && number >= config->requests)
		return -1;
	if (config->rate > 0)
		at = schedule->start + (int64_t) (number * 1e6 / config->rate);
	if (config->seconds > 0 && at >= schedule->start + (int64_t) (config->seconds * 1e6))
		return -1;
	return at;
}

static void *
run_thread(void *argument)
{
	DriveThread *thread = argument;
	int64_t		number;
	int64_t		at;

	drive_connect(thread);
	thread->curl = curl_easy_init();
	if (pthread_barrier_wait(&schedule->ready) == PTHREAD_BARRIER_SERIAL_THREAD)
		schedule->start = drive_now();
	pthread_barrier_wait(&schedule->ready);
	for (;;)
	{
		number = __atomic_fetch_add(&schedule->next, 1, __ATOMIC_RELAXED);
		at = due(thread->config, number);
		if (at < 0)
			break;
		drive_sleep_until(at);
		drive_request(thread, number, at);
	}
	curl_easy_cleanup(thread->curl);
	PQfinish(thread->connection);
	json_decref(thread->adapters);
	return NULL;
}

static void
run_process(const DriveConfig *config, int process)
{
	DriveThread *threads = calloc(config->threads, sizeof(DriveThread));
	pthread_t  *ids = calloc(config->threads, sizeof(pthread_t));

	for (int i = 0; i < config->threads; i++)
	{
		threads[i] = (DriveThread) {.config = config, .process = process, .number = i,
		.random = UINT64_C(0x9E3779B97F4A7C15) * (process * config->threads + i + 1)};
		if (pthread_create(&ids[i], NULL, run_thread, &threads[i]) != 0)
			drive_fail("pthread_create", strerror(errno));
	}
	for (int i = 0; i < config->threads; i++)
		pthread_join(ids[i], NULL);
	_exit(0);
}

static void
prepare(const DriveConfig *config)
{
	pthread_barrierattr_t shared;

	schedule = mmap(NULL, sizeof(Schedule), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (schedule == MAP_FAILED)
		drive_fail("mmap", strerror(errno));
	pthread_barrierattr_init(&shared);
	pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&schedule->ready, &shared, config->processes * config->threads);
}

/* The first failure ends the others, which may be waiting for it. */
static int
wait_for_all(const pid_t *children, int count)
{
	int			status;

	for (int left = count; left > 0; left--)
	{
		if (wait(&status) < 0 || status != 0)
		{
			for (int i = 0; i < count; i++)
				kill(children[i], SIGTERM);
			return 1;
		}
	}
	return 0;
}

static DriveConfig *
read_files(char **argv)
{
	json_error_t error;
	json_t	   *json = json_load_file(argv[1], 0, &error);
	DriveConfig *config;

	if (json == NULL)
		drive_fail(argv[1], error.text);
	config = drive_read_config(json);
	config->output = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644);
	if (config->output < 0)
		drive_fail(argv[2], strerror(errno));
	return config;
}

int
main(int argc, char **argv)
{
	DriveConfig *config;
	pid_t	   *children;

	if (argc != 3)
		drive_fail("usage", "drive CONFIG.json OUTPUT.jsonl");
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	config = read_files(argv);
	curl_global_init(CURL_GLOBAL_ALL);
	prepare(config);
	children = calloc(config->processes, sizeof(pid_t));
	for (int i = 0; i < config->processes; i++)
	{
		children[i] = fork();
		if (children[i] < 0)
			drive_fail("fork", strerror(errno));
		if (children[i] > 0)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		run_process(config, i);
	}
	/* as the children: nothing is worth tidying up */
	_exit(wait_for_all(children, config->processes));
}
