/*
 * catalog_route.c
 *	  The routes of the configuration: their steps, and how they choose.
 *
 * An org has its own definition of a route, or else the common one; and its own row of options, or else the common one.
 * Which are an org's is found while loading: a route that has options for an org alone is there for it once more, with
 * the same steps.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "catalog_row.h"
#include "name.h"

/* What holds without a row. */
static const LlmqRouteOption default_option = {
	.route = "",
	.org = "",
	.strategy = LLMQ_LEAST_USED,
	.max_attempts = 3,
	.deadline_ms = 30000,
	.session_ttl = 3600 * INT64CONST(1000000),
	.explore = 0.05,
};

/* A row of llmquota.route, kept until all are there and can be put into order. */
typedef struct RouteRow
{
	const char *name;
	const char *org;			/* empty: common */
	int32		step;
	LlmqChoice	choice;
} RouteRow;

static RouteRow *rows;			/* only during a load */
static int	nrows;
static int	max_rows;
static struct names_hash *common_options;

/* A number in the parameters of a strategy. */
static double
read_param(Jsonb *params, const char *name, double otherwise)
{
	JsonbValue	found;

	if (!JB_ROOT_IS_OBJECT(params) ||
		getKeyJsonValueFromContainer(&params->root, name, strlen(name), &found) == NULL || found.type != jbvNumeric)
		return otherwise;
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(found.val.numeric)));
}

static void
read_option(LlmqRow *row)
{
	static const char *const strategies[] = {
		"least_used", "weighted", "round_robin", "lowest_latency", "cheapest", "sticky", NULL
	};
	LlmqRouteOption *option = llmq_catalog_keep(row->catalog, sizeof(LlmqRouteOption));

	*option = default_option;
	option->route = text_value(row, 1);
	option->org = text_value(row, 2);
	option->strategy = llmq_word_number(text_value(row, 3), strategies);
	option->max_attempts = DatumGetInt32(value(row, 4));
	option->deadline_ms = DatumGetInt32(value(row, 5));
	option->retry_same_model = bool_value(row, 6);
	if (!is_null(row, 7))
	{
		Jsonb	   *params = DatumGetJsonbP(value(row, 7));

		option->session_ttl = read_param(params, "session_ttl_ms", option->session_ttl / 1000) * 1000;
		option->explore = read_param(params, "explore", option->explore);
	}
	option->next = row->catalog->options;
	row->catalog->options = option;
	if (option->org[0] == '\0')
		llmq_names_put(common_options, option->route, option);
}

static void
read_route(LlmqRow *row)
{
	RouteRow   *route;

	if (nrows == max_rows)
	{
		max_rows *= 2;
		rows = repalloc(rows, sizeof(RouteRow) * max_rows);
	}
	route = &rows[nrows];
	route->choice.model = llmq_names_find(row->catalog->models, text_value(row, 4));
	if (route->choice.model == NULL)
		return;
	route->name = text_value(row, 1);
	route->org = text_value(row, 2);
	route->step = DatumGetInt32(value(row, 3));
	route->choice.weight = has_column(row, 5) ? DatumGetInt32(value(row, 5)) : 1;
	nrows++;
}

static int
compare_rows(const void *a, const void *b)
{
	const RouteRow *left = a;
	const RouteRow *right = b;
	int			order = strcmp(left->name, right->name);

	if (order == 0)
		order = strcmp(left->org, right->org);
	if (order == 0)
		order = left->step < right->step ? -1 : left->step > right->step ? 1 : 0;
	if (order == 0)
		order = right->choice.weight - left->choice.weight;
	return order != 0 ? order : strcmp(left->choice.model->name, right->choice.model->name);
}

static LlmqRoute *
create_route(const char *name, int nchoices)
{
	LlmqRoute  *route = palloc0(sizeof(LlmqRoute));

	route->name = name;
	route->ref = (LlmqNameRef) {.kind = LLMQ_NAME_ROUTE,.name = name};
	route->option = &default_option;
	route->step = palloc0(sizeof(LlmqStep) * nchoices);
	return route;
}

/* The route that a model's name is. */
LlmqRoute *
llmq_model_route(LlmqModel *model)
{
	LlmqRoute  *route = create_route(model->name, 1);
	LlmqChoice *choice = palloc(sizeof(LlmqChoice));

	*choice = (LlmqChoice) {.model = model,.weight = 1};
	route->nsteps = 1;
	route->step[0] = (LlmqStep) {.nchoices = 1,.choice = choice};
	return route;
}

/* Makes a route of its sorted rows. */
static LlmqRoute *
build_route(const RouteRow *first, int n)
{
	LlmqRoute  *route = create_route(first->name, n);
	LlmqChoice *choices = palloc(sizeof(LlmqChoice) * n);

	for (int i = 0; i < n; i++)
	{
		choices[i] = first[i].choice;
		if (i == 0 || first[i].step != first[i - 1].step)
			route->step[route->nsteps++].choice = &choices[i];
		route->step[route->nsteps - 1].nchoices++;
	}
	return route;
}

static void
put_own_route(LlmqCatalog *catalog, const char *org, LlmqRoute *route)
{
	route->own = true;
	llmq_names_put(catalog->own_routes, llmq_own_route_name(org, route->name), route);
	catalog->has_own_routes = true;
}

static bool
same_route(const RouteRow *a, const RouteRow *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->org, b->org) == 0;
}

/* Puts the steps of each route into their order. */
static void
build_routes(LlmqCatalog *catalog)
{
	qsort(rows, nrows, sizeof(RouteRow), compare_rows);
	for (int first = 0, end; first < nrows; first = end)
	{
		const LlmqRouteOption *option = llmq_names_find(common_options, rows[first].name);
		LlmqRoute  *route;

		for (end = first; end < nrows && same_route(&rows[end], &rows[first]);)
			end++;
		route = build_route(&rows[first], end - first);
		route->option = option != NULL ? option : &default_option;
		if (rows[first].org[0] == '\0')
			llmq_names_put(catalog->routes, route->name, route);
		else
			put_own_route(catalog, rows[first].org, route);
	}
}

/* Gives one row of options to whom it is for. */
static void
apply_option(LlmqCatalog *catalog, const LlmqRouteOption *option)
{
	LlmqModel  *model = llmq_names_find(catalog->models, option->route);
	LlmqRoute  *common = llmq_names_find(catalog->routes, option->route);
	LlmqRoute  *own;

	if (common == NULL && model != NULL)
		common = model->route;
	if (option->org[0] == '\0')
	{
		if (common != NULL)
			common->option = option;
		return;
	}
	own = llmq_names_find(catalog->own_routes, llmq_own_route_name(option->org, option->route));
	if (own == NULL && common != NULL)
	{
		own = palloc(sizeof(LlmqRoute));
		*own = *common;
		put_own_route(catalog, option->org, own);
	}
	if (own != NULL)
		own->option = option;
}

/* Reads the routes, when all models are there. */
void
llmq_routes_load(LlmqCatalog *catalog, Snapshot snapshot)
{
	nrows = 0;
	max_rows = 16;
	rows = palloc(sizeof(RouteRow) * max_rows);
	common_options = llmq_names_create(catalog->context);
	if (OidIsValid(llmq_relation_oid_if_any(LLMQ_REL_ROUTE_OPTION)))
		llmq_catalog_read(catalog, LLMQ_REL_ROUTE_OPTION, snapshot, read_option);
	llmq_catalog_read(catalog, LLMQ_REL_ROUTE, snapshot, read_route);
	build_routes(catalog);
	for (const LlmqRouteOption *option = catalog->options; option != NULL; option = option->next)
		apply_option(catalog, option);
	pfree(rows);
}
