/*
 * drive_sql.c
 *	  The driver's statements: a pick and a record, each a transaction.
 */
#include "drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char pick_sql[] =
	"SELECT status, lease, key, coalesce(secret_ref, key), account, provider, base_url, model, provider_model, "
	"max_output_tokens, retry_after_ms FROM llmquota_pick($1, org => $2, input_tokens => $3, max_output_tokens => $4, "
	"request_id => $5, exclude => $6)";

static const char record_sql[] =
	"SELECT status, usage_source FROM llmquota_record($1, input_tokens => $2, output_tokens => $3, http_status => $4, "
	"error => $5, latency_ms => $6)";

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

/* Names of keys and models here are simple: they need no quotes. */
static void
array_text(const json_t *names, char *text, size_t size)
{
	size_t		used = snprintf(text, size, "{");
	size_t		index;
	json_t	   *name;

	json_array_foreach(names, index, name)
	{
		used += snprintf(text + used, size - used, "%s%s", index == 0 ? "" : ",", json_string_value(name));
		if (used + 2 > size)
			drive_fail("exclude", "too many names");
	}
	strcpy(text + used, "}");
}

static const char *
column(const PGresult *result, int number)
{
	return PQgetisnull(result, 0, number) ? NULL : PQgetvalue(result, 0, number);
}

void
drive_pick(DriveRequest *request, DrivePick *pick)
{
	char		input[24];
	char		max_output[24];
	char		excluded[2048];
	const char *values[] = {request->kind->route, request->org, input, max_output, request->id, excluded};
	const char **columns[] = {&pick->status, &pick->lease, &pick->key, &pick->secret, &pick->account, &pick->provider,
	&pick->base_url, &pick->model, &pick->provider_model};

	snprintf(input, sizeof(input), "%lld", (long long) request->input);
	snprintf(max_output, sizeof(max_output), "%lld", (long long) request->max_output);
	array_text(request->excluded, excluded, sizeof(excluded));
	pick->result = execute(request->thread, pick_sql, 6, values);
	request->statements++;
	request->picks++;
	for (int i = 0; i < 9; i++)
		*columns[i] = column(pick->result, i);
	pick->max_output = column(pick->result, 9) ? atoll(column(pick->result, 9)) : 0;
	pick->retry_after = column(pick->result, 10) ? atoll(column(pick->result, 10)) * 1000 : -1;
}

static const char *
number_text(int64_t number, char *text)
{
	sprintf(text, "%lld", (long long) number);
	return number >= 0 ? text : NULL;
}

/* What the ledger is told of an answer; and how long that took, into the attempt. */
void
drive_record(DriveRequest *request, const DrivePick *pick, const DriveAnswer *answer, json_t *attempt)
{
	char		numbers[4][24];
	int64_t		start = drive_now();
	bool		is_good = answer->status >= 200 && answer->status < 300;
	const char *error = answer->status == 0 ? answer->error : answer->body;
	const char *values[] = {pick->lease, number_text(answer->input, numbers[0]),
		number_text(answer->output, numbers[1]), number_text(answer->status > 0 ? answer->status : -1, numbers[2]),
	is_good ? NULL : error, number_text(answer->took / 1000, numbers[3])};
	PGresult   *result = execute(request->thread, record_sql, 6, values);

	request->statements++;
	json_object_set_new(attempt, "recorded", json_string(PQgetvalue(result, 0, 0)));
	json_object_set_new(attempt, "record_us", json_integer(drive_now() - start));
	PQclear(result);
}
