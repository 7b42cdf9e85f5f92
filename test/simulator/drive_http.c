/*
 * drive_http.c
 *	  The driver's calls, by libcurl.
 *
 * Each has a connection of its own: on one that was used before, libcurl sends
 * a call again by itself when it is cut, and the provider counts it twice.
 */
#include "drive.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

static size_t
collect(char *data, size_t size, size_t count, void *argument)
{
	DriveAnswer *answer = argument;
	size_t		length = size * count;

	answer->body = realloc(answer->body, answer->length + length + 1);
	memcpy(answer->body + answer->length, data, length);
	answer->length += length;
	answer->body[answer->length] = '\0';
	return length;
}

/* A line of the answer's head; of a header that comes twice the last counts. */
static size_t
collect_header(char *line, size_t size, size_t count, void *argument)
{
	DriveAnswer *answer = argument;
	size_t		length = size * count;
	char	   *colon = memchr(line, ':', length);
	char	   *name;

	if (colon == NULL)
		return length;
	name = strndup(line, colon - line);
	for (colon++; colon < line + length && *colon == ' '; colon++)
		;
	json_object_set_new(answer->headers, name, json_stringn(colon, line + length - colon - strlen("\r\n")));
	free(name);
	return length;
}

static void
perform(DriveThread *thread, DriveAnswer *answer)
{
	int64_t		start = drive_now();
	CURLcode	code = curl_easy_perform(thread->curl);
	long		status = 0;

	answer->took = drive_now() - start;
	if (code == CURLE_OK)
		curl_easy_getinfo(thread->curl, CURLINFO_RESPONSE_CODE, &status);
	else
		strncpy(answer->error, curl_easy_strerror(code), sizeof(answer->error) - 1);
	answer->status = (int) status;
}

/*
 * Ask the provider what a pick allows.  Without a whole answer the status is 0.
 */
void
drive_call(DriveRequest *request, const DrivePick *pick)
{
	DriveThread *thread = request->thread;
	DriveAnswer *answer = &request->answer;
	const char *adapter = json_string_value(json_object_get(thread->adapters, pick->provider));
	char	   *url = drive_url(adapter, pick);
	char	   *key = drive_key_header(adapter, pick);
	json_t	   *body = drive_body(adapter, request, pick);
	char	   *text = json_dumps(body, JSON_COMPACT);
	struct curl_slist *headers = curl_slist_append(curl_slist_append(NULL, key), "Content-Type: application/json");

	memset(answer, 0, sizeof(DriveAnswer));
	answer->headers = json_object();
	curl_easy_reset(thread->curl);
	curl_easy_setopt(thread->curl, CURLOPT_URL, url);
	curl_easy_setopt(thread->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(thread->curl, CURLOPT_PROXY, "");
	curl_easy_setopt(thread->curl, CURLOPT_FORBID_REUSE, 1L);
	curl_easy_setopt(thread->curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(thread->curl, CURLOPT_POSTFIELDS, text);
	curl_easy_setopt(thread->curl, CURLOPT_TIMEOUT_MS, (long) (thread->config->timeout / 1000));
	curl_easy_setopt(thread->curl, CURLOPT_WRITEFUNCTION, collect);
	curl_easy_setopt(thread->curl, CURLOPT_WRITEDATA, answer);
	curl_easy_setopt(thread->curl, CURLOPT_HEADERFUNCTION, collect_header);
	curl_easy_setopt(thread->curl, CURLOPT_HEADERDATA, answer);
	perform(thread, answer);
	if (answer->status >= 200 && answer->status < 300)
		drive_read_usage(answer);
	curl_slist_free_all(headers);
	json_decref(body);
	free(text);
	free(key);
	free(url);
}
