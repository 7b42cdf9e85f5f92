/*
 * role.c
 *	  Which orgs a role may act for.
 *
 * EXECUTE on the functions says who may pick at all; llmquota.role_grant says for whom. A role to which only grants
 * with an org apply (its own, or those of roles whose privileges it has) may act for these orgs; a grant without an
 * org, or none at all because EXECUTE was granted by hand, opens every org. It is the same with those who may read what
 * an org has used, and their grants.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"

#include "role.h"

/* Does a grant apply to the current role? A role that has been dropped has no privileges to give. */
static bool
applies(const LlmqRoleGrant *grant)
{
	Oid			role = get_role_oid(grant->role, true);

	return OidIsValid(role) && has_privs_of_role(GetUserId(), role);
}

/* Do grants let the current role have to do with this org? */
static bool
allow(const LlmqRoleGrant *grants, const char *org)
{
	bool		bound = false;

	if (grants == NULL || superuser())
		return true;
	for (const LlmqRoleGrant *grant = grants; grant != NULL; grant = grant->next)
	{
		if (!applies(grant))
			continue;
		if (grant->org == NULL || (org != NULL && strcmp(grant->org, org) == 0))
			return true;
		bound = true;
	}
	return !bound;
}

/* May the current role act for this org? */
bool
llmq_role_may_use(const LlmqCatalog *catalog, const char *org)
{
	return allow(catalog->role_grants, org);
}

/* The org that a call is for. Raises when the role may not act for it, or it is not known and must be. */
LlmqOrg *
llmq_role_org(LlmqCatalog *catalog, const char *name)
{
	LlmqOrg    *org = llmq_catalog_org(catalog, name);

	if (!llmq_role_may_use(catalog, org->subject.name))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for org \"%s\"", name),
				 errhint("This role was granted llmquota for other orgs only.")));
	if (!org->listed && catalog->settings.unknown_org_refused)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("org \"%s\" does not exist", name),
				 errhint("Insert it into llmquota.org, or set unknown_org in llmquota.setting to \"allow\".")));
	return org;
}

/*
 * The org that a call is for which names none: the one that the role is bound to. NULL: it is bound to none, and the
 * call is for nobody in particular. Raises when it may act for several orgs and no others.
 */
LlmqOrg *
llmq_role_only_org(LlmqCatalog *catalog)
{
	const char *only = NULL;

	if (llmq_role_may_use(catalog, NULL))
		return NULL;
	for (const LlmqRoleGrant *grant = catalog->role_grants; grant != NULL; grant = grant->next)
	{
		if (!applies(grant))
			continue;
		if (only != NULL && strcmp(only, grant->org) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("org must not be NULL"),
					 errhint("This role was granted llmquota for several orgs. Name the one that the call is for.")));
		only = grant->org;
	}
	return llmq_role_org(catalog, only);
}

/* May the current role ask what this org has used? */
bool
llmq_role_may_read(const LlmqCatalog *catalog, const char *org)
{
	return allow(catalog->reader_grants, org);
}

/* May the current role see what belongs to others? */
bool
llmq_role_is_admin(const LlmqCatalog *catalog)
{
	if (superuser())
		return true;
	for (const LlmqRoleGrant *grant = catalog->role_grants; grant != NULL; grant = grant->next)
		if (grant->admin && applies(grant))
			return true;
	return false;
}
