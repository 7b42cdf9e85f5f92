/*
 * simulator.c
 *	  Providers of language models on the loopback interface: they answer,
 *	  count, refuse and fail as real ones do.  README.md says how to use it.
 *
 *	  simulator [CONFIG.json [LOG.jsonl]]
 *
 * Prints "port N" as soon as it listens, and serves until it is ended or its
 * parent ends.  One lock guards everything that calls share.
 */
#include "simulator.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *log_file = NULL;

void
sim_lock(void)
{
	pthread_mutex_lock(&lock);
}

void
sim_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

/* Microseconds since 1970. */
int64_t
sim_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static const char *
outcome(const SimCall *call)
{
	static const char *const cuts[] = {"answered", "cut before", "cut after", "cut body"};

	return call->stage == SIM_ANSWERED ? cuts[call->answer.cut] : "client gone";
}

/*
 * A line for each call that found its wire format.  Callers hold sim_lock().
 */
void
sim_log(const SimCall *call)
{
	int64_t		wait;
	const SimQuota *quota = sim_refusing(call, &wait);
	json_t	   *line;

	if (log_file == NULL)
		return;
	line = json_pack("{s:I, s:I, s:I, s:I, s:s?, s:s?, s:s?, s:i, s:s, s:s, s:s?, s:I, s:I}",
					 "call", (json_int_t) call->id, "received_us", (json_int_t) call->received,
					 "counted_us", (json_int_t) call->counted, "ended_us", (json_int_t) sim_now(),
					 "account", call->account ? call->account->name : NULL, "key", call->key ? call->key->name : NULL,
					 "model", call->model, "status", call->answer.status, "outcome", outcome(call),
					 "fault", sim_failure_name(call->effect.failure), "refused_by", quota ? quota->name : NULL,
					 "input_tokens", (json_int_t) call->input, "output_tokens", (json_int_t) call->output);
	json_dumpf(line, log_file, JSON_COMPACT);
	fputc('\n', log_file);
	json_decref(line);
}

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "simulator: %s: %s\n", what, why);
	exit(1);
}

/* What the file says, as far as the control endpoint understands it, is done; port and threads are for us. */
static json_t *
read_config(const char *path)
{
	json_error_t error;
	json_t	   *config = json_load_file(path, 0, &error);

	if (config == NULL)
		fail(path, error.text);
	return config;
}

static int
take_integer(json_t *config, const char *name, int otherwise)
{
	const json_t *value = json_object_get(config, name);
	int			number = value != NULL ? (int) json_integer_value(value) : otherwise;

	json_object_del(config, name);
	return number;
}

static void
end_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		exit(1);
}

int
main(int argc, char **argv)
{
	json_t	   *config = argc > 1 ? read_config(argv[1]) : json_object();
	int			port = take_integer(config, "port", 0);
	int			threads = take_integer(config, "threads", 2);
	sigset_t	ends;
	char	   *wrong;
	int			signal_number;

	end_with_parent(getppid());
	/* before there are threads: they inherit it */
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	signal(SIGPIPE, SIG_IGN);

	if ((wrong = sim_control(config)) != NULL)
		fail(argv[1], wrong);
	if (argc > 2 && (log_file = fopen(argv[2], "a")) == NULL)
		fail(argv[2], "could not be opened");
	if (log_file != NULL)
		setvbuf(log_file, NULL, _IOLBF, BUFSIZ);
	sim_timer_start();
	printf("port %d\n", sim_server_start(port, threads));
	fflush(stdout);
	sigwait(&ends, &signal_number);
	/* threads are in the middle of something: nothing is worth tidying up */
	_exit(0);
}
