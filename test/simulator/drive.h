/*
 * drive.h
 *	  What the parts of the load driver share.
 */
#ifndef DRIVE_H
#define DRIVE_H

#include <jansson.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

/* A kind of client request; spans are [from, to]. */
typedef struct DriveKind
{
	const char *route;
	const char *org;			/* followed by a number, if there are several */
	int64_t		orgs;
	int64_t		weight;
	int64_t		input[2];
	int64_t		max_output[2];
	int64_t		output[2];
} DriveKind;

typedef struct DriveConfig
{
	const char *conninfo;
	int			processes;
	int			threads;		/* of each process */
	double		seconds;		/* no request begins later; 0: no end */
	int64_t		requests;		/* of all; 0: no end */
	double		rate;			/* requests per second, of all; 0: one after the other */
	int64_t		deadline;		/* of a request, microseconds */
	int64_t		timeout;		/* of a call */
	DriveKind  *kinds;
	size_t		nkinds;
	int			output;			/* file */
} DriveConfig;

/* What a thread owns. */
typedef struct DriveThread
{
	const DriveConfig *config;
	int			process;
	int			number;
	uint64_t	random;
	PGconn	   *connection;
	void	   *curl;
	json_t	   *adapters;		/* provider -> adapter */
} DriveThread;

/* What the provider said. */
typedef struct DriveAnswer
{
	int			status;			/* 0: nothing */
	char	   *body;
	size_t		length;
	json_t	   *headers;
	char	   *usage;			/* the provider's own object; NULL: none */
	char		error[256];		/* why there is no answer */
	int64_t		took;			/* microseconds */
} DriveAnswer;

/* A client request under way. */
typedef struct DriveRequest
{
	DriveThread *thread;
	const DriveKind *kind;
	char		id[64];
	char		org[64];
	int64_t		input;
	int64_t		max_output;
	int64_t		output;
	int64_t		due;
	int64_t		started;
	int			statements;
	int			picks;
	char		failed[40];		/* the lease of the last call; empty: there was none */
	DriveAnswer answer;			/* to it */
	bool		is_recorded;
	json_t	   *attempts;		/* what came of each pick */
} DriveRequest;

/* A pick; texts live as long as the result. */
typedef struct DrivePick
{
	PGresult   *result;
	const char *status;
	const char *lease;
	const char *key;
	const char *secret;
	const char *account;
	const char *provider;
	const char *base_url;
	const char *model;
	const char *provider_model;
	int64_t		max_output;
	int64_t		retry_after;	/* microseconds; -1: never */
} DrivePick;

/* drive.c */
extern int64_t drive_now(void);
extern void drive_sleep_until(int64_t at);
extern int64_t drive_random(DriveThread *thread, const int64_t span[2]);
extern void drive_fail(const char *what, const char *why) __attribute__((noreturn));

/* drive_config.c */
extern DriveConfig *drive_read_config(json_t *config);

/* drive_request.c */
extern void drive_request(DriveThread *thread, int64_t number, int64_t due);

/* drive_sql.c */
extern void drive_connect(DriveThread *thread);
extern void drive_pick(DriveRequest *request, DrivePick *pick);
extern void drive_retry(DriveRequest *request, DrivePick *pick);
extern void drive_record(DriveRequest *request, json_t *attempt);

/* drive_http.c */
extern void drive_call(DriveRequest *request, const DrivePick *pick);

/* drive_wire.c */
extern char *drive_url(const char *adapter, const DrivePick *pick);
extern char *drive_key_header(const char *adapter, const DrivePick *pick);
extern json_t *drive_body(const char *adapter, const DriveRequest *request, const DrivePick *pick);
extern void drive_read_usage(DriveAnswer *answer);

#endif							/* DRIVE_H */
