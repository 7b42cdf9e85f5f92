/*
 * server.c
 *	  HTTP on the loopback interface, by libmicrohttpd.
 *
 * A pool of threads with epoll.  No thread waits for a call: its connection is
 * suspended, and the timer resumes it when the next step is due.
 */
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simulator.h"

/* Clients that test failures leave connections behind. */
#define CONNECTIONS 2000

/* Half of an answer, and then the connection is cut. */
static ssize_t
half_a_body(void *cls, uint64_t position, char *buffer, size_t max)
{
	const char *body = cls;
	size_t		half = strlen(body) / 2;
	size_t		rest = half - position;

	if (position >= half)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	rest = rest < max ? rest : max;
	memcpy(buffer, body + position, rest);
	return rest;
}

static struct MHD_Response *
response_of(SimAnswer *answer)
{
	char	   *body = strdup(answer->body);

	if (answer->cut == SIM_CUT_BODY)
		return MHD_create_response_from_callback(strlen(body), 1024, half_a_body, body, free);
	return MHD_create_response_from_buffer(strlen(body), body, MHD_RESPMEM_MUST_FREE);
}

static enum MHD_Result
send_answer(struct MHD_Connection *connection, SimAnswer *answer)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	const char *name;
	json_t	   *value;

	if (answer->cut == SIM_CUT_BEFORE || answer->cut == SIM_CUT_AFTER)
		return MHD_NO;
	response = response_of(answer);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, answer->content_type);
	json_object_foreach(answer->headers, name, value)
		MHD_add_response_header(response, name, json_string_value(value));
	result = MHD_queue_response(connection, answer->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
send_json(struct MHD_Connection *connection, int status, json_t *value)
{
	SimAnswer	answer = {.status = status, .content_type = "application/json"};
	enum MHD_Result result;

	answer.body = json_dumps(value, JSON_COMPACT);
	result = send_answer(connection, &answer);
	free(answer.body);
	json_decref(value);
	return result;
}

static enum MHD_Result
report(struct MHD_Connection *connection)
{
	json_t	   *all;

	sim_lock();
	all = sim_report();
	sim_unlock();
	return send_json(connection, 200, all);
}

static enum MHD_Result
control(struct MHD_Connection *connection, SimCall *call)
{
	json_t	   *orders = json_loadb(call->text, call->length, 0, NULL);
	json_t	   *answer;
	char	   *wrong;

	sim_lock();
	wrong = sim_control(orders);
	sim_unlock();
	answer = json_pack("{s:s?}", "wrong", wrong);
	free(wrong);
	/* accounts and faults keep what they need of it */
	json_decref(orders);
	return send_json(connection, json_is_null(json_object_get(answer, "wrong")) ? 200 : 400, answer);
}

/* The secret, wherever a wire format has it. */
static const char *
secret_of(struct MHD_Connection *connection)
{
	static const char *const headers[] = {"x-api-key", "x-goog-api-key", "api-key"};
	const char *secret = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");

	if (secret != NULL && strncmp(secret, "Bearer ", 7) == 0)
		return secret + 7;
	for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++)
	{
		secret = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, headers[i]);
		if (secret != NULL)
			return secret;
	}
	secret = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "key");
	return secret != NULL ? secret : "";
}

static void
collect(SimCall *call, const char *data, size_t length)
{
	call->text = realloc(call->text, call->length + length);
	if (call->text == NULL)
		abort();
	memcpy(call->text + call->length, data, length);
	call->length += length;
}

/* A model is asked.  Comes here again whenever the next step is due. */
static enum MHD_Result
serve(struct MHD_Connection *connection, const char *path, SimCall *call)
{
	int64_t		next;

	if (call->connection == NULL)
	{
		call->connection = connection;
		sim_call_read(call, path, secret_of(connection));
	}
	next = sim_call_step(call);
	if (next == 0)
		return send_answer(connection, &call->answer);
	MHD_suspend_connection(connection);
	sim_timer_add(connection, next);
	return MHD_YES;
}

static enum MHD_Result
handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
	   const char *data, size_t *length, void **state)
{
	SimCall    *call = *state;

	if (call == NULL)
	{
		*state = sim_allocate(sizeof(SimCall));
		return MHD_YES;
	}
	if (*length > 0)
	{
		collect(call, data, *length);
		*length = 0;
		return MHD_YES;
	}
	if (strcmp(url, "/_report") == 0)
		return report(connection);
	if (strcmp(url, "/_control") == 0)
		return control(connection, call);
	return serve(connection, url, call);
}

static void
completed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode code)
{
	if (*state != NULL)
		sim_call_free(*state);
	*state = NULL;
}

/*
 * Listen on a port, 0 for any; which one it is.
 */
int
sim_server_start(int port, unsigned threads)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
	.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct MHD_Daemon *daemon;

	daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, port, NULL, NULL, handle, NULL,
							  MHD_OPTION_SOCK_ADDR, (struct sockaddr *) &address,
							  MHD_OPTION_THREAD_POOL_SIZE, threads,
							  MHD_OPTION_CONNECTION_LIMIT, (unsigned) CONNECTIONS,
							  MHD_OPTION_NOTIFY_COMPLETED, completed, NULL, MHD_OPTION_END);
	if (daemon == NULL)
	{
		fprintf(stderr, "simulator: could not listen on port %d\n", port);
		exit(1);
	}
	return MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
}
