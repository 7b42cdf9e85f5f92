/*
 * line_memory.c
 *	  The memory of the line: made by the first who waits after the server has started, found by all others.
 *
 * It is a dynamic shared memory segment that stays until the server ends, so nothing has to be preloaded. Its handle is
 * on the first board of llmquota.health, which every pick looks at anyway. A handle that a restart has left behind, or
 * a copy of a database has brought along, leads nowhere, or to something that says that it is another's; then it is
 * made anew. Who waits is known to nobody after a restart, except by tickets (ticket.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/dsm.h"
#include "utils/timestamp.h"

#include "health_board.h"
#include "line.h"

#define LINE_MAGIC UINT64CONST(0x6c6c6d716c696e65)

/* How often the board may turn out to have moved. */
#define MAX_ATTEMPTS 100

/* The line of this database; NULL: nobody has waited since the server was started, as far as known. */
LlmqLine   *llmq_line = NULL;

/* While this backend waits in the line it stays there, whatever is on the board: the extension may be created anew. */
bool		llmq_line_is_held = false;

/* The handle that was last seen on the board, whatever it led to. */
static dsm_handle known_handle = DSM_HANDLE_INVALID;
static dsm_segment *segment = NULL;

static bool
is_ours(dsm_segment *found)
{
	const LlmqLine *line = dsm_segment_address(found);

	return dsm_segment_map_length(found) >= sizeof(LlmqLine) && line->magic == LINE_MAGIC &&
		line->database == MyDatabaseId;
}

/* Keeps a segment mapped until this backend ends, or another takes its place. */
static void
keep(dsm_segment *found)
{
	dsm_pin_mapping(found);
	segment = found;
	llmq_line = dsm_segment_address(found);
	LWLockRegisterTranche(llmq_line->tranche, "llmquota_line");
}

/* After the board was looked at: takes what its handle leads to, if it is another than before. */
void
llmq_line_look(dsm_handle handle)
{
	dsm_segment *found;

	if (handle == known_handle || llmq_line_is_held)
		return;
	if (segment != NULL)
		dsm_detach(segment);
	segment = NULL;
	llmq_line = NULL;
	known_handle = DSM_HANDLE_INVALID;
	found = handle == DSM_HANDLE_INVALID ? NULL : dsm_attach(handle);
	known_handle = handle;
	if (found == NULL)
		return;
	if (is_ours(found))
		keep(found);
	else
		dsm_detach(found);
}

static dsm_segment *
create(void)
{
	dsm_segment *created = dsm_create(sizeof(LlmqLine), 0);
	LlmqLine   *line = dsm_segment_address(created);

	memset(line, 0, sizeof(LlmqLine));
	line->database = MyDatabaseId;
	line->tranche = LWLockNewTrancheId();
	pg_atomic_init_u32(&line->waiting, 0);
	LWLockInitialize(&line->lock, line->tranche);
	line->magic = LINE_MAGIC;
	return created;
}

/* Writes a handle on the board, if there is still the one that was seen there. */
static bool
announce(LlmqLive *live, dsm_handle handle)
{
	for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++)
	{
		LlmqCellSet set;
		LlmqHealthBoard *board;
		bool		first;

		llmq_set_init(&set, live);
		(void) llmq_set_add(&set, LLMQ_LIVE_HEALTH, llmq_board_id(live, 0, true));
		if (llmq_set_lock(&set) != LLMQ_LOCKED)
			continue;
		first = ((const LlmqHealthBoard *) llmq_set_state(&set, 0))->line == known_handle;
		if (first)
		{
			board = llmq_set_change(&set, 0);
			board->line = handle;
			llmq_set_log(&set, 0);
		}
		llmq_set_unlock(&set);
		return first;
	}
	return false;
}

/* Sees to it that there is a line. Raises when the operating system has no memory for it. */
void
llmq_line_open(void)
{
	while (llmq_line == NULL)
	{
		LlmqLive	live;

		CHECK_FOR_INTERRUPTS();
		llmq_live_open(&live, LLMQ_LIVE_LEASE + 1, RowExclusiveLock);
		llmq_health_look(&live);
		if (llmq_line == NULL)
		{
			dsm_segment *created = create();

			if (announce(&live, dsm_segment_handle(created)))
			{
				dsm_pin_segment(created);
				known_handle = dsm_segment_handle(created);
				keep(created);
			}
			else
				dsm_detach(created);
		}
		llmq_live_close(&live);
	}
}
