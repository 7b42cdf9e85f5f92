/*
 * control.c
 *	  POST /_control: what a test tells the simulator while it runs.
 *
 * An object with any of the commands below, done in this order.  The first
 * thing that is wrong is answered, and what came before it stays.  Callers
 * hold sim_lock().
 */
#include "simulator.h"

#include <stdlib.h>
#include <string.h>

static char *
set_faults(json_t *rows)
{
	sim_clear_faults();
	return sim_add_faults(rows);
}

/* "used": as if so much more had been used, or {"used": "all"}. */
static void
use(SimQuota *quota, const json_t *used)
{
	int64_t		now = sim_now();

	sim_limit_advance(&quota->limit, now);
	sim_limit_charge(&quota->limit, now,
					 json_is_string(used) ? sim_limit_left(&quota->limit) : json_integer_value(used));
}

static char *
set_limit(json_t *row)
{
	const char *account_name = "",
			   *name = "";
	json_int_t	amount = -1,
				ends_in_ms = -1;
	json_t	   *used = NULL;
	SimAccount *account;
	SimQuota   *quota;

	if (json_unpack(row, "{s:s, s:s, s?I, s?I, s?o}", "account", &account_name, "name", &name, "amount", &amount,
					"ends_in_ms", &ends_in_ms, "used", &used) < 0)
		return sim_format("a limit needs account and name");
	account = sim_account_by_name(account_name);
	quota = account != NULL ? sim_quota_by_name(account, name) : NULL;
	if (quota == NULL)
		return sim_format("no limit \"%s\" of an account \"%s\"", name, account_name);
	if (amount >= 0)
		quota->limit.amount = quota->limit.burst = amount;
	if (ends_in_ms >= 0)
		quota->limit.end = sim_now() + ends_in_ms * 1000;
	if (used != NULL)
		use(quota, used);
	return NULL;
}

static char *
set_limits(json_t *rows)
{
	char	   *wrong = NULL;
	size_t		index;
	json_t	   *row;

	json_array_foreach(rows, index, row)
	{
		if ((wrong = set_limit(row)) != NULL)
			break;
	}
	return wrong;
}

static char *
set_seed(json_t *seed)
{
	sim_random_seed(json_integer_value(seed));
	return NULL;
}

static char *
restart_report(json_t *unused)
{
	SimAccount *account;

	for (size_t i = 0; (account = sim_account(i)) != NULL; i++)
		sim_restart_history(account);
	return NULL;
}

static const struct
{
	const char *name;
	char	   *(*obey) (json_t *argument);
}			commands[] = {
	{"seed", set_seed},
	{"accounts", sim_set_accounts},
	{"faults", set_faults},
	{"add_faults", sim_add_faults},
	{"limits", set_limits},
	{"restart_report", restart_report}
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static bool
is_known(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++)
	{
		if (strcmp(commands[i].name, name) == 0)
			return true;
	}
	return false;
}

/*
 * What is wrong, malloced; NULL if all was done.
 */
char *
sim_control(json_t *orders)
{
	char	   *wrong = NULL;
	const char *name;
	json_t	   *argument;

	if (!json_is_object(orders))
		return sim_format("that is not a JSON object");
	json_object_foreach(orders, name, argument)
	{
		if (!is_known(name))
			return sim_format("unknown command \"%s\"", name);
	}
	for (size_t i = 0; i < COMMANDS && wrong == NULL; i++)
	{
		argument = json_object_get(orders, commands[i].name);
		if (argument != NULL)
			wrong = commands[i].obey(argument);
	}
	return wrong;
}
