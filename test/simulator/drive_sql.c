/*
 * drive_sql.c
 *	  The driver's statements: a pick, a record, and both in one; each a
 *	  transaction.
 */
#include "drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS \
	"status, lease, key, coalesce(secret_ref, key), account, provider, base_url, model, provider_model, " \
	"max_output_tokens, retry_after_ms"

#define ARGUMENTS "$1, usage => $2, http_status => $3, error => $4, headers => $5, latency_ms => $6"

static const char pick_sql[] =
	"SELECT " COLUMNS " FROM llmquota_pick($1, org => $2, input_tokens => $3, max_output_tokens => $4, "
	"request_id => $5, retry_of => $6)";

static const char retry_sql[] = "SELECT " COLUMNS " FROM llmquota_retry(" ARGUMENTS ")";

static const char record_sql[] = "SELECT status FROM llmquota_record(" ARGUMENTS ")";

static PGresult *
execute(DriveThread *thread, const char *sql, int count, const char *const *values)
{
	PGresult   *result = PQexecParams(thread->connection, sql, count, NULL, values, NULL, NULL, 0);

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		drive_fail("SQL", PQerrorMessage(thread->connection));
	return result;
}

/* Connects, and reads which wire format each provider has. */
void
drive_connect(DriveThread *thread)
{
	PGresult   *result;

	thread->connection = PQconnectdb(thread->config->conninfo);
	if (PQstatus(thread->connection) != CONNECTION_OK)
		drive_fail("connection", PQerrorMessage(thread->connection));
	result = execute(thread, "SELECT provider, adapter FROM llmquota.provider", 0, NULL);
	thread->adapters = json_object();
	for (int i = 0; i < PQntuples(result); i++)
		json_object_set_new(thread->adapters, PQgetvalue(result, i, 0), json_string(PQgetvalue(result, i, 1)));
	PQclear(result);
}

static const char *
column(const PGresult *result, int number)
{
	return PQgetisnull(result, 0, number) ? NULL : PQgetvalue(result, 0, number);
}

/* What a pick answers, or a retry. */
static void
read_pick(DriveRequest *request, DrivePick *pick)
{
	const char **columns[] = {&pick->status, &pick->lease, &pick->key, &pick->secret, &pick->account, &pick->provider,
	&pick->base_url, &pick->model, &pick->provider_model};

	request->statements++;
	request->picks++;
	for (int i = 0; i < 9; i++)
		*columns[i] = column(pick->result, i);
	pick->max_output = column(pick->result, 9) ? atoll(column(pick->result, 9)) : 0;
	pick->retry_after = column(pick->result, 10) ? atoll(column(pick->result, 10)) * 1000 : -1;
}

/* The first attempt, or the next one after a failure that has been recorded. */
void
drive_pick(DriveRequest *request, DrivePick *pick)
{
	char		input[24];
	char		max_output[24];
	const char *values[] = {request->kind->route, request->org, input, max_output, request->id,
	request->failed[0] ? request->failed : NULL};

	snprintf(input, sizeof(input), "%lld", (long long) request->input);
	snprintf(max_output, sizeof(max_output), "%lld", (long long) request->max_output);
	pick->result = execute(request->thread, pick_sql, 6, values);
	read_pick(request, pick);
}

/* A statement that tells what came of the last call. */
static PGresult *
execute_with_answer(DriveRequest *request, const char *sql)
{
	const DriveAnswer *answer = &request->answer;
	bool		is_good = answer->status >= 200 && answer->status < 300;
	char		status[24];
	char		took[24];
	char	   *headers = json_dumps(answer->headers, JSON_COMPACT);
	const char *values[] = {request->failed, answer->usage, answer->status > 0 ? status : NULL, NULL, headers, took};
	PGresult   *result;

	snprintf(status, sizeof(status), "%d", answer->status);
	snprintf(took, sizeof(took), "%lld", (long long) answer->took / 1000);
	if (!is_good)
		values[3] = answer->status == 0 ? answer->error : answer->body;
	result = execute(request->thread, sql, 6, values);
	free(headers);
	return result;
}

/* Records the failure of the last call, and asks for the next attempt. */
void
drive_retry(DriveRequest *request, DrivePick *pick)
{
	pick->result = execute_with_answer(request, retry_sql);
	read_pick(request, pick);
}

/* Records the last call; and how long that took, into the attempt. */
void
drive_record(DriveRequest *request, json_t *attempt)
{
	int64_t		start = drive_now();
	PGresult   *result = execute_with_answer(request, record_sql);

	request->statements++;
	json_object_set_new(attempt, "recorded", json_string(PQgetvalue(result, 0, 0)));
	json_object_set_new(attempt, "record_us", json_integer(drive_now() - start));
	PQclear(result);
}
