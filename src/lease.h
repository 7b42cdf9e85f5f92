/*
 * lease.h
 *	  Leases: slots in lease pages, and the uuids that name them.
 */
#ifndef LLMQ_LEASE_H
#define LLMQ_LEASE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "cell.h"
#include "estimate.h"
#include "meter.h"

/* Small pages are fast pages: every change copies, compares and sums up the whole state. */
#define LLMQ_SLOTS 4

#define LLMQ_MAX_METERS (LLMQ_MAX_CELLS - 3)
#define LLMQ_SLOT_ROOM 12
#define LLMQ_MAX_LABEL 64		/* session and request_id */

/* The longest life of a lease: a day. Longer calls renew. */
#define LLMQ_MAX_TTL_MS 86400000

#define LLMQ_NO_TOKENS (-1)		/* a figure that was not given */

/* The values of these enums are stored: append only. */
typedef enum LlmqSlotState
{
	LLMQ_SLOT_FREE = 0,
	LLMQ_SLOT_GRANTED,
	LLMQ_SLOT_SETTLED,
	LLMQ_SLOT_WAITING			/* no lease yet, but a ticket that may become one: ticket.c */
} LlmqSlotState;

typedef enum LlmqOutcome
{
	LLMQ_OUTCOME_NONE = 0,
	LLMQ_OUTCOME_OK,
	LLMQ_OUTCOME_ERROR,
	LLMQ_OUTCOME_EXPIRED,
	LLMQ_OUTCOME_RELEASED
} LlmqOutcome;

typedef enum LlmqUsageSource
{
	LLMQ_USAGE_NONE = 0,
	LLMQ_USAGE_REPORTED,
	LLMQ_USAGE_RESERVED,
	LLMQ_USAGE_LATE,
	LLMQ_USAGE_RECOVERED
} LlmqUsageSource;

/* A meter that the lease is counted in, and the generation the meter had. */
typedef struct LlmqSlotMeter
{
	int32		meter;
	uint32		generation;
} LlmqSlotMeter;

/* What a request's earlier attempts leave to the next. Append only. */
typedef enum LlmqTriedKind
{
	LLMQ_TRIED_NOTHING = 0,
	LLMQ_TRIED_ATTEMPT,			/* that failed */
	LLMQ_TRIED_NAMES			/* that the first pick excluded */
} LlmqTriedKind;

typedef struct LlmqTried
{
	int32		name[3];		/* of an attempt: ids of key, account, model; else hashes of names, or 0 */
	int16		http_status;	/* 0: not given */
	uint8		kind;			/* LlmqTriedKind */
	uint8		failure;		/* LlmqFailureKind */
} LlmqTried;

/* Attempts at one request are one more than this at most. */
#define LLMQ_MAX_TRIED 7

/* Of the terms of a pick, for the next attempt: these, and above them its ttl_ms. */
#define LLMQ_TERM_INPUT			0x01	/* input_tokens were given */
#define LLMQ_TERM_OUTPUT		0x02	/* likewise */
#define LLMQ_TERM_HIGH			0x04	/* of high priority */
#define LLMQ_TERM_TOO_MANY		0x08	/* it excluded more names than a lease remembers */
#define LLMQ_TERM_LOW			0x10	/* of low priority */
#define LLMQ_TERM_BITS 5

StaticAssertDecl(LLMQ_MAX_TTL_MS < (1 << (32 - LLMQ_TERM_BITS)), "the terms have room for every ttl_ms");

/* The request of which a lease is an attempt. */
typedef struct LlmqHistory
{
	LlmqTried	tried[LLMQ_MAX_TRIED];	/* without gaps */
	pg_uuid_t	first_lease;	/* of the request */
	pg_uuid_t	retry_of;		/* all zero: it is the first */
	uint32		terms;
	int32		deadline_ms;	/* of the request, after the grant; 0: there is no next attempt */
} LlmqHistory;

/* How a lease ended. */
typedef struct LlmqSettlement
{
	int32		input;			/* or LLMQ_NO_TOKENS */
	int32		output;
	int32		cached;
	int32		cache_write;
	int32		reasoning;
	int32		latency_ms;		/* -1: not given */
	int16		http_status;	/* 0: not given */
	uint8		outcome;		/* LlmqOutcome */
	uint8		source;			/* LlmqUsageSource */
	uint8		answered;		/* the provider did answer, if with a failure */
	uint8		failure;		/* LlmqFailureKind */
	uint8		reserved[2];
} LlmqSettlement;

/*
 * What a settlement has replaced, for the meters that it has not come to yet. Only a crash between two records of one
 * settlement leaves any.
 */
typedef struct LlmqReplaced
{
	int32		input;
	int32		output;
	int32		cached;
	uint16		behind;			/* one bit for each meter: it still counts this, not the settlement */
	uint8		request;
	uint8		failed;
} LlmqReplaced;

/* One lease. Fixed-width types, no padding. */
typedef struct LlmqSlot
{
	uint64		secret;			/* of the uuid */
	int64		granted_at;
	int64		expires_at;
	int64		settled_at;
	uint64		settled_by;		/* the transaction whose commit contains the ledger row */
	int32		org;			/* ids of llmquota.name */
	int32		route;
	int32		model;
	int32		provider;
	int32		account;
	int32		key;
	int32		reserved_input;
	int32		reserved_output;
	LlmqSettlement settlement;
	LlmqReplaced replaced;
	uint8		state;			/* LlmqSlotState */
	uint8		nmeters;
	uint16		charged;		/* one bit for each meter: it counts the reservation */
	uint8		attempt;		/* from 1 */
	uint8		retries;		/* of this one that were granted */
	uint8		session_length;
	uint8		request_id_length;
	char		session[LLMQ_MAX_LABEL];
	char		request_id[LLMQ_MAX_LABEL];
	LlmqSlotMeter meter[LLMQ_MAX_METERS];
	LlmqHistory history;
	LlmqTextFeatures prompt;	/* zero: the pick was given none */
	int32		waited_ms;		/* in the line, before the grant */
	char		later[LLMQ_SLOT_ROOM];	/* zero; for what later versions keep */
} LlmqSlot;

StaticAssertDecl(sizeof(LlmqSlot) % 8 == 0 &&
				 sizeof(LlmqSlot) == 72 + sizeof(LlmqSettlement) + sizeof(LlmqReplaced) + 8 + 2 * LLMQ_MAX_LABEL +
				 8 * LLMQ_MAX_METERS + sizeof(LlmqHistory) + sizeof(LlmqTextFeatures) + 4 + LLMQ_SLOT_ROOM,
				 "LlmqSlot has padding");

/*
 * What a lease is charged in money, as far as budgets count it or somebody said what it cost. Fixed-width types, no
 * padding.
 */
typedef struct LlmqSlotMoney
{
	uint64		secret;			/* of the lease that it is about; another's: about none */
	int64		budget;			/* that had another model answer; 0: none did */
	int32		requested_model;	/* in place of this one: a name's id */
	LlmqCurrency currency[LLMQ_CURRENCIES]; /* of the amounts: the price's first; 0: no more */
	uint8		priced;			/* what was reserved is known */
	uint8		known;			/* what the settlement says is */
	uint8		given;			/* ... because the application told */
	uint8		told;			/* what was reserved is, too: the pick's max_cost */
	int64		reserved[LLMQ_CURRENCIES];
	int64		settled[LLMQ_CURRENCIES];
	int64		replaced[LLMQ_CURRENCIES];	/* as LlmqReplaced */
	uint8		counted;		/* since it was granted; else since somebody said what it cost */
	char		later[7];		/* zero; for what later versions keep */
} LlmqSlotMoney;

StaticAssertDecl(sizeof(LlmqSlotMoney) == 32 + 2 * LLMQ_CURRENCIES + 24 * LLMQ_CURRENCIES, "LlmqSlotMoney has padding");

/* The money stands behind the slots: pages of 0.1.0 end before it. */
typedef struct LlmqLeasePage
{
	LlmqCellHeader cell;
	int64		granted;		/* leases, since the page was made */
	LlmqSlot	slot[LLMQ_SLOTS];
	LlmqSlotMoney money[LLMQ_SLOTS];
} LlmqLeasePage;

#define LLMQ_LEASE_PAGE_OLD_SIZE offsetof(LlmqLeasePage, money)

static inline bool
llmq_lease_page_has_money(const LlmqLeasePage *page)
{
	return page->cell.length >= sizeof(LlmqLeasePage);
}

/* A lease, as it was copied out. */
typedef struct LlmqLease
{
	LlmqSlot	slot;
	LlmqSlotMoney money;		/* all zero: it has none */
} LlmqLease;

StaticAssertDecl(sizeof(LlmqLeasePage) <= LLMQ_MAX_STATE, "a lease page fits a page");

/* Where a lease is, as its uuid says. */
typedef struct LlmqLeaseId
{
	int32		page;
	int			slot;
	int32		day;			/* of the grant: UTC days since 2000-01-01 */
	uint64		secret;
} LlmqLeaseId;

extern void llmq_lease_uuid(const LlmqLeaseId *id, pg_uuid_t *uuid);
extern char *llmq_uuid_text(const pg_uuid_t *uuid);
extern bool llmq_lease_parse(const pg_uuid_t *uuid, LlmqLeaseId *id);
extern int32 llmq_lease_day(TimestampTz at);
extern uint64 llmq_lease_secret(void);

extern int	llmq_label_copy(char *label, const char *text);
extern void llmq_lease_copy(const LlmqLeasePage *page, int slot, LlmqLease *lease);
extern void llmq_lease_put(LlmqLeasePage *page, int slot, const LlmqLease *lease);
extern bool llmq_slot_has_lease(const LlmqSlot *slot);
extern bool llmq_slot_reusable(const LlmqSlot *slot);
extern bool llmq_slot_unfinished(const LlmqSlot *slot);
extern bool llmq_slot_awaits_retry(const LlmqSlot *slot);
extern bool llmq_slot_unchanged(const LlmqSlot *now, const LlmqSlot *seen);

/* So many leases can be granted at once: those of two pages, which are what a record has room for beside meters. */
#define LLMQ_BATCH_PAGES 2
#define LLMQ_MAX_BATCH (LLMQ_BATCH_PAGES * LLMQ_SLOTS)

StaticAssertDecl(LLMQ_MAX_METERS + LLMQ_BATCH_PAGES <= LLMQ_MAX_CELLS, "a batch fits a set of cells");

/* A slot that can take a new lease, and how it looked. */
typedef struct LlmqFreeSlot
{
	LlmqLeaseId place;
	LlmqSlot	seen;
} LlmqFreeSlot;

/* lease_find.c */
extern int	llmq_lease_find_free(LlmqLive *live, int32 max_leases, int wanted, LlmqFreeSlot *found);
extern void llmq_lease_page_widen(LlmqLive *live, int32 id);
extern void llmq_lease_avoid(int32 page);
extern void llmq_lease_ended(int32 page);
extern void llmq_lease_end_noted(void);

#endif							/* LLMQ_LEASE_H */
