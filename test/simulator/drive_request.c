/*
 * drive_request.c
 *	  One client request: pick, call, record, and again where that may help.
 *
 * Refused, it waits as long as it was told to, if that is before its deadline.
 * Failed, it asks for the next attempt, until there is none.  Every statement
 * counts.
 */
#include "drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const DriveKind *
choose_kind(DriveThread *thread)
{
	const DriveConfig *config = thread->config;
	int64_t		span[2] = {1, 0};
	int64_t		ticket;
	size_t		i;

	for (i = 0; i < config->nkinds; i++)
		span[1] += config->kinds[i].weight;
	ticket = drive_random(thread, span);
	for (i = 0; (ticket -= config->kinds[i].weight) > 0; i++)
		;
	return &config->kinds[i];
}

static void
begin(DriveRequest *request, int64_t number)
{
	DriveThread *thread = request->thread;
	const DriveKind *kind = request->kind = choose_kind(thread);
	int64_t		orgs[2] = {1, kind->orgs};

	request->started = drive_now();
	request->input = drive_random(thread, kind->input);
	request->max_output = drive_random(thread, kind->max_output);
	request->output = drive_random(thread, kind->output);
	if (request->output > request->max_output)
		request->output = request->max_output;
	snprintf(request->id, sizeof(request->id), "request-%lld", (long long) number);
	if (kind->orgs == 1)
		snprintf(request->org, sizeof(request->org), "%s", kind->org);
	else
		snprintf(request->org, sizeof(request->org), "%s%lld", kind->org, (long long) drive_random(thread, orgs));
	request->attempts = json_array();
}

/* Does it make sense to try another candidate? */
static bool
is_worth_a_retry(const DriveAnswer *answer)
{
	return answer->status == 0 || answer->status == 408 || answer->status == 429 || answer->status >= 500 ||
		answer->status == 401 || answer->status == 403;
}

static void
free_answer(DriveAnswer *answer)
{
	free(answer->body);
	free(answer->usage);
	json_decref(answer->headers);
	memset(answer, 0, sizeof(DriveAnswer));
}

/* Calls, and records what need not be tried again; NULL: go on, else the outcome of the request. */
static const char *
attempt(DriveRequest *request, const DrivePick *pick, json_t *line)
{
	const DriveAnswer *answer = &request->answer;
	bool		is_good;

	drive_call(request, pick);
	json_object_set_new(line, "http_status", json_integer(answer->status));
	json_object_set_new(line, "http_us", json_integer(answer->took));
	if (answer->status == 0)
		json_object_set_new(line, "http_error", json_string(answer->error));
	snprintf(request->failed, sizeof(request->failed), "%s", pick->lease);
	is_good = answer->status >= 200 && answer->status < 300;
	request->is_recorded = is_good || !is_worth_a_retry(answer);
	if (!request->is_recorded)
		return NULL;
	drive_record(request, line);
	free_answer(&request->answer);
	return is_good ? "ok" : "failed";
}

/* The next pick: the first, one for a call that has failed just now, or one that comes back. */
static void
pick_next(DriveRequest *request, DrivePick *pick)
{
	if (request->failed[0] == '\0' || request->is_recorded)
	{
		drive_pick(request, pick);
		return;
	}
	drive_retry(request, pick);
	request->is_recorded = true;
	free_answer(&request->answer);
}

/* Waits to come back; false: it would be too late. */
static bool
wait_for_room(DriveRequest *request, const DrivePick *pick)
{
	int64_t		again = drive_now() + pick->retry_after;

	if (pick->retry_after < 0 || again > request->due + request->thread->config->deadline)
		return false;
	drive_sleep_until(again);
	return true;
}

/* One pick and what comes of it; NULL: go on. */
static const char *
try_once(DriveRequest *request)
{
	DrivePick	pick;
	json_t	   *line;
	int64_t		start = drive_now();
	const char *outcome = NULL;

	pick_next(request, &pick);
	line = json_pack("{s:I, s:I, s:s, s:s?, s:s?, s:s?, s:s?, s:s?, s:I}", "at_us", (json_int_t) start,
					 "pick_us", (json_int_t) (drive_now() - start), "status", pick.status, "lease", pick.lease,
					 "provider", pick.provider, "account", pick.account, "key", pick.key, "model", pick.model,
					 "retry_after_us", (json_int_t) pick.retry_after);
	if (pick.lease != NULL)
		outcome = attempt(request, &pick, line);
	else if (!wait_for_room(request, &pick))
		outcome = strcmp(pick.status, "attempts_exhausted") == 0 ? "failed" : "refused";
	json_array_append_new(request->attempts, line);
	PQclear(pick.result);
	return outcome;
}

static void
write_line(const DriveRequest *request, const char *outcome)
{
	json_t	   *line = json_pack("{s:s, s:i, s:i, s:s, s:s, s:I, s:I, s:I, s:s, s:i, s:i, s:O}", "request", request->id,
								 "process", request->thread->process, "thread", request->thread->number,
								 "route", request->kind->route, "org", request->org,
								 "due_us", (json_int_t) request->due,
								 "started_us", (json_int_t) request->started, "ended_us", (json_int_t) drive_now(),
								 "outcome", outcome, "picks", request->picks, "statements", request->statements,
								 "attempts", request->attempts);
	char	   *text = json_dumps(line, JSON_COMPACT);
	size_t		length = strlen(text);

	text[length] = '\n';
	/* in one piece, so that lines of others do not come between */
	if (write(request->thread->config->output, text, length + 1) != (ssize_t) length + 1)
		drive_fail("output", "could not write");
	free(text);
	json_decref(line);
}

void
drive_request(DriveThread *thread, int64_t number, int64_t due)
{
	DriveRequest request = {.thread = thread, .due = due};
	const char *outcome;

	begin(&request, number);
	while ((outcome = try_once(&request)) == NULL)
		;
	write_line(&request, outcome);
	json_decref(request.attempts);
}
