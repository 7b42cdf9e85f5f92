/*
 * line_client.c: many applications that wait for a slot, call for a while and record, all in one process.
 *
 *   line_client held|ticket ORGS SECONDS CALL_MS WAIT_MS TTL_MS    ORGS: how many clients each org has, as 150,5,5
 *
 * A client of `held` waits in llmquota_pick.  One of `ticket` does what an
 * application behind a pooler should: it picks with queue => true; while the
 * answer is `queued` it comes again when that says, to llmquota_claim, which
 * waits for a moment if it is nearly its turn.  Statements of tickets are not
 * prepared, as a pooler in transaction mode wants it.
 *
 * Prints a line for every call, in microseconds since 1970 of the one clock
 * that client and server have:
 *
 *   call ORG ASKED SHOWN GRANTED GOT SENT ARRIVED ENDED ANSWERED CLAIMS
 *
 * asked for it, the ticket last shown, granted by the server, the answer got;
 * the record sent, arrived at the server, ended there, answered; claims that
 * it took.  A line for every pick that was refused:
 *
 *   refused ORG ASKED ANSWERED STATUS
 *
 * And `other STATUS N` for answers to claims and records that should not be.
 * Ends when the server does.
 */
#define _GNU_SOURCE				/* ppoll */

#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_CLIENTS 1000
#define MAX_STATUSES 20
#define NEVER INT64_MAX
#define MICROSECONDS(clock) "(extract(epoch FROM " clock ") * 1000000)::bigint"
#define ANSWER "SELECT status, lease, retry_after_ms, " MICROSECONDS("granted_at") " FROM "

typedef enum State
{
	ASKING,						/* the answer to a pick or claim is awaited */
	RESTING,					/* until the ticket is to be shown again */
	CALLING,
	RECORDING
} State;

typedef struct Client
{
	PGconn	   *connection;
	State		state;
	char		org[32];
	char		lease[40];		/* or ticket */
	int64_t		wake_at;		/* of who rests or calls */
	int64_t		asked;
	int64_t		shown;
	int64_t		granted;
	int64_t		got;
	int64_t		sent;
	int			claims;
} Client;

static const char *const statements[] = {
	"SELECT status FROM llmquota_pick('gpt-4o', exclude => ARRAY(SELECT key FROM llmquota.key))",
	ANSWER "llmquota_pick('gpt-4o', $1, 1200, 500, wait_ms => $2, ttl_ms => $3)",
	ANSWER "llmquota_pick('gpt-4o', $1, 1200, 500, ttl_ms => $2, queue => true)",
	ANSWER "llmquota_claim($1, wait_ms => $2)",
	"SELECT status, " MICROSECONDS("statement_timestamp()") ", " MICROSECONDS("clock_timestamp()")
	" FROM llmquota_record($1, 1180, 312)"
};

enum
{
	HELLO, PICK, QUEUE, CLAIM, RECORD, NSTATEMENTS
};

static Client clients[MAX_CLIENTS];
static int	nclients = 0;
static bool with_tickets;
static int64_t call_us;
static const char *wait_ms;
static const char *ttl_ms;
static struct
{
	char		status[32];
	int			count;
}			statuses[MAX_STATUSES];

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "line_client: %s: %s\n", what, why);
	exit(1);
}

static int64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

static void
check(PGresult *result, ExecStatusType expected)
{
	if (PQresultStatus(result) != expected)
		fail("server", PQresultErrorMessage(result));
	PQclear(result);
}

/* Connects; what a first pick does in a session, such as reading the configuration, is done before the measure. */
static void
open_client(Client *client, int org)
{
	snprintf(client->org, sizeof(client->org), "clinic-%d", org);
	client->connection = PQconnectdb("");
	if (PQstatus(client->connection) != CONNECTION_OK)
		fail("connection", PQerrorMessage(client->connection));
	check(PQexec(client->connection, statements[HELLO]), PGRES_TUPLES_OK);
	for (int i = 0; i < NSTATEMENTS && !with_tickets; i++)
	{
		char		name[2] = {'a' + i, 0};

		check(PQprepare(client->connection, name, statements[i], 0, NULL), PGRES_COMMAND_OK);
	}
	if (PQsetnonblocking(client->connection, 1) != 0)
		fail("connection", PQerrorMessage(client->connection));
}

static void
send_statement(Client *client, int statement, const char *first, const char *second, const char *third)
{
	const char *values[] = {first, second, third};
	char		name[2] = {'a' + statement, 0};
	int			n = second == NULL ? 1 : third == NULL ? 2 : 3;
	int			sent;

	if (with_tickets)
		sent = PQsendQueryParams(client->connection, statements[statement], n, NULL, values, NULL, NULL, 0);
	else
		sent = PQsendQueryPrepared(client->connection, name, n, values, NULL, NULL, 0);
	if (!sent || PQflush(client->connection) != 0)
		fail("send", PQerrorMessage(client->connection));
	client->wake_at = NEVER;
}

static void
ask(Client *client)
{
	client->state = ASKING;
	client->asked = client->shown = now_us();
	client->claims = 0;
	if (with_tickets)
		send_statement(client, QUEUE, client->org, ttl_ms, NULL);
	else
		send_statement(client, PICK, client->org, wait_ms, ttl_ms);
}

static void
count(const char *status)
{
	int			i = 0;

	while (i < MAX_STATUSES - 1 && statuses[i].count > 0 && strcmp(statuses[i].status, status) != 0)
		i++;
	snprintf(statuses[i].status, sizeof(statuses[i].status), "%s", status);
	statuses[i].count++;
}

/* The answer to a pick or a claim. */
static void
take_answer(Client *client, PGresult *result, int64_t now)
{
	const char *status = PQgetvalue(result, 0, 0);

	snprintf(client->lease, sizeof(client->lease), "%s", PQgetvalue(result, 0, 1));
	if (strcmp(status, "granted") == 0)
	{
		client->state = CALLING;
		client->granted = atoll(PQgetvalue(result, 0, 3));
		client->got = now;
		client->wake_at = now + call_us;
		return;
	}
	if (strcmp(status, "queued") != 0)
	{
		if (client->claims > 0)
			count(status);
		else
			printf("refused %s %lld %lld %s\n", client->org, (long long) client->asked, (long long) now, status);
		client->lease[0] = '\0';	/* no ticket: it picks anew */
	}
	client->state = RESTING;
	client->wake_at = with_tickets ? now + atoll(PQgetvalue(result, 0, 2)) * 1000 : now;
}

static void
take_record(Client *client, PGresult *result, int64_t now)
{
	if (strcmp(PQgetvalue(result, 0, 0), "settled") != 0)
		count(PQgetvalue(result, 0, 0));
	printf("call %s %lld %lld %lld %lld %lld %s %s %lld %d\n", client->org, (long long) client->asked,
		   (long long) client->shown, (long long) client->granted, (long long) client->got, (long long) client->sent,
		   PQgetvalue(result, 0, 1), PQgetvalue(result, 0, 2), (long long) now, client->claims);
	ask(client);
}

/* Something has arrived. */
static void
receive(Client *client, int64_t now)
{
	PGresult   *result;

	if (!PQconsumeInput(client->connection))
		fail("receive", PQerrorMessage(client->connection));
	if (PQisBusy(client->connection))
		return;
	result = PQgetResult(client->connection);
	if (result == NULL)
		return;
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		fail("server", PQresultErrorMessage(result));
	while (PQgetResult(client->connection) != NULL)
		;						/* the end of the statement comes with its rows */
	if (client->state == ASKING)
		take_answer(client, result, now);
	else
		take_record(client, result, now);
	PQclear(result);
}

/* A client's time has come. */
static void
go_on(Client *client, int64_t now)
{
	if (client->state == CALLING)
	{
		client->state = RECORDING;
		client->sent = now;
		send_statement(client, RECORD, client->lease, NULL, NULL);
	}
	else if (client->lease[0] == '\0')
		ask(client);
	else
	{
		client->state = ASKING;
		client->claims++;
		client->shown = now;
		send_statement(client, CLAIM, client->lease, wait_ms, NULL);
	}
}

static void
run(int64_t until)
{
	static struct pollfd waiting[MAX_CLIENTS];

	for (int i = 0; i < nclients; i++)
	{
		waiting[i] = (struct pollfd) {.fd = PQsocket(clients[i].connection), .events = POLLIN};
		ask(&clients[i]);
	}
	for (int64_t now = now_us(); now < until; now = now_us())
	{
		int64_t		next = until;
		struct timespec timeout;

		for (int i = 0; i < nclients; i++)
		{
			if (clients[i].wake_at <= now)
				go_on(&clients[i], now_us());
			if (clients[i].wake_at < next)
				next = clients[i].wake_at;
		}
		next = next > now ? next - now : 0;
		timeout = (struct timespec) {.tv_sec = next / 1000000, .tv_nsec = next % 1000000 * 1000};
		if (ppoll(waiting, nclients, &timeout, NULL) < 0 && errno != EINTR)
			fail("poll", strerror(errno));
		for (int i = 0; i < nclients; i++)
			if (waiting[i].revents != 0)
				receive(&clients[i], now_us());
	}
}

int
main(int argc, char **argv)
{
	int			org = 0;

	if (argc != 7)
		fail("arguments", "held|ticket ORGS SECONDS CALL_MS WAIT_MS TTL_MS");
	with_tickets = strcmp(argv[1], "ticket") == 0;
	call_us = atoll(argv[4]) * 1000;
	wait_ms = argv[5];
	ttl_ms = argv[6];
	setvbuf(stdout, NULL, _IOLBF, 0);	/* what was said is said, also by one who is killed */
	for (const char *word = strtok(argv[2], ","); word != NULL; word = strtok(NULL, ","))
	{
		org++;
		for (int i = 0; i < atoi(word) && nclients < MAX_CLIENTS; i++)
			open_client(&clients[nclients++], org);
	}
	run(now_us() + atoll(argv[3]) * 1000000);
	for (int i = 0; i < MAX_STATUSES && statuses[i].count > 0; i++)
		printf("other %s %d\n", statuses[i].status, statuses[i].count);
	return 0;
}
