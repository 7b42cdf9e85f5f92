/*
 * timer.c
 *	  Wakes suspended connections when they are due.
 *
 * A thread of its own waits for the earliest of a heap.  It holds the timer's
 * lock and no other while it resumes a connection.
 */
#include <microhttpd.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "simulator.h"

typedef struct Alarm
{
	int64_t		at;
	void	   *connection;
} Alarm;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t earlier = PTHREAD_COND_INITIALIZER;
static Alarm *heap = NULL;
static size_t count = 0;
static size_t capacity = 0;

static void
rise(size_t at, Alarm alarm)
{
	for (; at > 0 && heap[(at - 1) / 2].at > alarm.at; at = (at - 1) / 2)
		heap[at] = heap[(at - 1) / 2];
	heap[at] = alarm;
}

static void
sink(Alarm alarm)
{
	size_t		at = 0;
	size_t		child;

	while ((child = 2 * at + 1) < count)
	{
		if (child + 1 < count && heap[child + 1].at < heap[child].at)
			child++;
		if (heap[child].at >= alarm.at)
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = alarm;
}

static void *
pop(void)
{
	void	   *connection = heap[0].connection;

	if (--count > 0)
		sink(heap[count]);
	return connection;
}

static void
wait_until(int64_t at)
{
	struct timespec when = {.tv_sec = at / 1000000, .tv_nsec = at % 1000000 * 1000};

	pthread_cond_timedwait(&earlier, &lock, &when);
}

static void *
run(void *unused)
{
	pthread_mutex_lock(&lock);
	for (;;)
	{
		if (count == 0)
			pthread_cond_wait(&earlier, &lock);
		else if (heap[0].at > sim_now())
			wait_until(heap[0].at);
		else
			MHD_resume_connection(pop());
	}
	return NULL;
}

/* A connection that has been suspended is resumed at an instant. */
void
sim_timer_add(void *connection, int64_t at)
{
	pthread_mutex_lock(&lock);
	if (count == capacity)
	{
		capacity = capacity == 0 ? 256 : 2 * capacity;
		heap = realloc(heap, capacity * sizeof(Alarm));
		if (heap == NULL)
			abort();
	}
	rise(count++, (Alarm) {.at = at, .connection = connection});
	if (heap[0].connection == connection)
		pthread_cond_signal(&earlier);
	pthread_mutex_unlock(&lock);
}

void
sim_timer_start(void)
{
	pthread_t	thread;

	if (pthread_create(&thread, NULL, run, NULL) != 0)
		abort();
	pthread_detach(thread);
}
