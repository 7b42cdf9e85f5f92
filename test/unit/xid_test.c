/*
 * xid_test.c
 *	  burn_ids(int): uses up so many transaction ids, by subtransactions that each take one.
 *
 * module:
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(burn_ids);

Datum
burn_ids(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	for (int i = PG_GETARG_INT32(0); i > 0; i--)
	{
		CHECK_FOR_INTERRUPTS();
		BeginInternalSubTransaction(NULL);
		(void) GetCurrentTransactionId();
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_RETURN_VOID();
}
