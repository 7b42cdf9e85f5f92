/*
 * redis_client.c: drives the Redis script as pgbench drives PostgreSQL.
 *
 *   redis_client pick SOCKET CLIENTS THREADS SECONDS SCRIPT TTL_MS    prints "tps N granted N other N"
 *   redis_client rate SOCKET CLIENTS THREADS SECONDS SCRIPT SUBJECTS  the same for the script of rate limits
 *   redis_client once SOCKET SCRIPT MODEL ORG INPUT OUTPUT            prints the answer, a field to a line
 *
 * Each thread has its share of the connections and an event loop over them:
 * every connection has one request under way, and sends the next one as soon
 * as it has read all fields of the answer.  The request is what the custom
 * scripts of pgbench send: a random org of 500, fixed numbers.
 */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ORGS 500
#define FIELDS 15
#define RATE_FIELDS 5
#define MAX_CLIENTS 1024

typedef struct Worker
{
	pthread_t	thread;
	int			clients;
	redisContext **connections;
	uint64_t	random;
	uint64_t	granted;
	uint64_t	other;
} Worker;

static char script_sha[41];
static const char *ttl_ms;
static unsigned subjects = 0;	/* not 0: rate limits of so many subjects */
static volatile bool stop = false;

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "redis_client: %s: %s\n", what, why);
	exit(1);
}

static redisContext *
connect_to(const char *socket)
{
	redisContext *connection = redisConnectUnix(socket);

	if (connection == NULL || connection->err)
		fail(socket, connection == NULL ? "out of memory" : connection->errstr);
	return connection;
}

static void
load_script(const char *socket, const char *path)
{
	redisContext *connection = connect_to(socket);
	FILE	   *file = fopen(path, "r");
	char		text[65536];
	size_t		length;
	redisReply *reply;

	if (file == NULL)
		fail(path, strerror(errno));
	length = fread(text, 1, sizeof(text), file);
	fclose(file);
	reply = redisCommand(connection, "SCRIPT LOAD %b", text, length);
	if (reply == NULL || reply->type != REDIS_REPLY_STRING)
		fail("SCRIPT LOAD", reply == NULL ? connection->errstr : reply->str);
	memcpy(script_sha, reply->str, sizeof(script_sha) - 1);
	freeReplyObject(reply);
	redisFree(connection);
}

/* xorshift64*: the lease's identity and the org. */
static uint64_t
next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static void
append_pick(redisContext *connection, const char *model, const char *org, const char *tokens[2], uint64_t *random)
{
	char		config_key[160];
	char		pool_key[160];
	char		org_key[160];
	char		lease_key[48];
	const char *lease = lease_key + strlen("lease:");
	const char *arguments[] = {"EVALSHA", script_sha, "4", config_key, pool_key, org_key, lease_key,
	model, org, lease, tokens[0], tokens[1], ttl_ms, "", ""};

	snprintf(config_key, sizeof(config_key), "config:%s", model);
	snprintf(pool_key, sizeof(pool_key), "pool:%s", model);
	snprintf(org_key, sizeof(org_key), "org:%s", org);
	snprintf(lease_key, sizeof(lease_key), "lease:%016llx%016llx",
			 (unsigned long long) next_random(random), (unsigned long long) next_random(random));
	redisAppendCommandArgv(connection, sizeof(arguments) / sizeof(arguments[0]), arguments, NULL);
}

static void
flush(redisContext *connection)
{
	int			done = 0;

	while (!done)
	{
		if (redisBufferWrite(connection, &done) != REDIS_OK)
			fail("write", connection->errstr);
	}
}

/* A million a minute for each of the subjects: nobody is limited. */
static void
append_rate(redisContext *connection, uint64_t *random)
{
	char		key[64];
	const char *arguments[] = {"EVALSHA", script_sha, "1", key, "1000000", "1000000", "60000000", "1"};

	snprintf(key, sizeof(key), "rate:user:user %u", (unsigned) (next_random(random) % subjects) + 1);
	redisAppendCommandArgv(connection, sizeof(arguments) / sizeof(arguments[0]), arguments, NULL);
}

static void
send_pick(Worker *worker, redisContext *connection)
{
	static const char *tokens[2] = {"1200", "500"};
	char		org[32];

	if (subjects > 0)
	{
		append_rate(connection, &worker->random);
		flush(connection);
		return;
	}
	snprintf(org, sizeof(org), "clinic-%u", (unsigned) (next_random(&worker->random) % ORGS) + 1);
	append_pick(connection, "gpt-4o", org, tokens, &worker->random);
	flush(connection);
}

/* Reads what has arrived; true when that was the whole answer. */
static bool
receive(Worker *worker, redisContext *connection)
{
	void	   *answer = NULL;
	redisReply *reply;

	if (redisBufferRead(connection) != REDIS_OK || redisGetReplyFromReader(connection, &answer) != REDIS_OK)
		fail("read", connection->errstr);
	reply = answer;
	if (reply == NULL)
		return false;
	if (reply->type == REDIS_REPLY_ERROR)
		fail("script", reply->str);
	if (subjects > 0 ? reply->elements == RATE_FIELDS && reply->element[0]->integer == 0 :
		reply->elements == FIELDS && strcmp(reply->element[0]->str, "granted") == 0)
		worker->granted++;
	else
		worker->other++;
	freeReplyObject(reply);
	return true;
}

static void *
work(void *argument)
{
	Worker	   *worker = argument;
	struct pollfd waiting[MAX_CLIENTS];

	for (int i = 0; i < worker->clients; i++)
	{
		waiting[i] = (struct pollfd) {.fd = worker->connections[i]->fd, .events = POLLIN};
		send_pick(worker, worker->connections[i]);
	}
	while (!stop)
	{
		if (poll(waiting, worker->clients, 1000) < 0)
			fail("poll", strerror(errno));
		for (int i = 0; i < worker->clients; i++)
		{
			if (waiting[i].revents != 0 && receive(worker, worker->connections[i]))
				send_pick(worker, worker->connections[i]);
		}
	}
	return NULL;
}

static double
seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
pick_for(const char *socket, int clients, int threads, int seconds)
{
	static redisContext *connections[MAX_CLIENTS];
	Worker		workers[64] = {0};
	uint64_t	granted = 0;
	uint64_t	other = 0;
	int			next = 0;
	double		began;

	threads = threads > clients ? clients : threads;
	for (int i = 0; i < clients; i++)
		connections[i] = connect_to(socket);
	began = seconds_now();
	for (int i = 0; i < threads; i++)
	{
		workers[i].clients = (clients - next) / (threads - i);
		workers[i].connections = connections + next;
		workers[i].random = (uint64_t) (began * 1e9) * 2654435761u + i;
		next += workers[i].clients;
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	}
	nanosleep(&(struct timespec) {.tv_sec = seconds}, NULL);
	stop = true;
	for (int i = 0; i < threads; i++)
	{
		pthread_join(workers[i].thread, NULL);
		granted += workers[i].granted;
		other += workers[i].other;
	}
	printf("tps %.1f granted %llu other %llu\n", (granted + other) / (seconds_now() - began),
		   (unsigned long long) granted, (unsigned long long) other);
}

static void
pick_once(const char *socket, const char *model, const char *org, const char *tokens[2])
{
	redisContext *connection = connect_to(socket);
	uint64_t	random = (uint64_t) (seconds_now() * 1e9) | 1;
	void	   *answer;
	redisReply *reply;

	append_pick(connection, model, org, tokens, &random);
	if (redisGetReply(connection, &answer) != REDIS_OK)
		fail("read", connection->errstr);
	reply = answer;
	if (reply->type != REDIS_REPLY_ARRAY)
		fail("script", reply->str);
	for (size_t i = 0; i < reply->elements; i++)
	{
		if (reply->element[i]->type == REDIS_REPLY_INTEGER)
			printf("%lld\n", reply->element[i]->integer);
		else
			printf("%s\n", reply->element[i]->type == REDIS_REPLY_NIL ? "" : reply->element[i]->str);
	}
}

int
main(int argc, char **argv)
{
	if (argc == 8 && strcmp(argv[1], "pick") == 0 && atoi(argv[3]) <= MAX_CLIENTS && atoi(argv[4]) <= 64)
	{
		ttl_ms = argv[7];
		load_script(argv[2], argv[6]);
		pick_for(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	}
	else if (argc == 8 && strcmp(argv[1], "rate") == 0 && atoi(argv[3]) <= MAX_CLIENTS && atoi(argv[4]) <= 64 &&
			 atoi(argv[7]) > 0)
	{
		subjects = atoi(argv[7]);
		load_script(argv[2], argv[6]);
		pick_for(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	}
	else if (argc == 8 && strcmp(argv[1], "once") == 0)
	{
		ttl_ms = "120000";
		load_script(argv[2], argv[3]);
		pick_once(argv[2], argv[4], argv[5], (const char *[2]) {argv[6], argv[7]});
	}
	else
		fail("usage", "see the head of redis_client.c");
	return 0;
}
