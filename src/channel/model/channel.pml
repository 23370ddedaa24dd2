/*
 * Model of a channel: one gateway thread, WORKERS workers, their queue, wake-ups, response rings and
 * recovery. Every read or write of shared memory is a step of its own, named after the C function it
 * stands for, and a process may die between any two (DEATHS of workers, or of the gateway).
 *
 * Checked in every reachable state (spin's assertions and "invalid end state"):
 *   - no request is answered twice, or with another's pieces, or after it was taken back;
 *   - none is lost but those that were RUNNING in a worker that died;
 *   - nobody waits for ever: every end state has all requests accounted for and every worker home. A lost
 *     wake-up is a state in which nobody can move; there are no time limits in here that would hide it.
 *
 * Abstractions. Memory is sequentially consistent: the C code has a fence or a sequentially consistent
 * operation in each of the four places where that matters (channel_int.h), and release/acquire where
 * order alone does. A futex word is a bit "changed since it was read". A ring holds RING records, an
 * answer is ANSWER records, each published at once: the smallest ring and the most publishing. What
 * only one process can see is joined to the step before or after it.
 *
 * Parameters (-D): WORKERS, REQUESTS, SLOTS, CELLS, DEATHS, RESPAWN (dead workers are replaced), GATEWAY_DIES,
 * CANCELS. BREAK_* leave one thing out; the check must then fail (check.sh proves that it does).
 */
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef RESPAWN
#define RESPAWN 1
#endif
#ifndef GATEWAY_DIES
#define GATEWAY_DIES 0
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#ifndef ANSWER
#define ANSWER 2
#endif
#define RING 1
#ifndef CELLS
#define CELLS (2 * SLOTS) /* more than SLOTS */
#endif
#define NONE 255

mtype = { FREE, QUEUED, RUNNING, DONE };

/* --- shared memory ---------------------------------------------------------------------------------- */
typedef slot_t { mtype state; byte owner, incarnation, seq }
slot_t slot[SLOTS];            /* the state word: its parts change together */
byte cell_lap[CELLS], cell_slot[CELLS], cell_seq[CELLS];
byte head;                     /* of the queue */
bool idle[WORKERS], dirty[WORKERS], waiting[WORKERS];
bool gateway_asleep, closed;
byte ring_tail[WORKERS], ring_head[WORKERS];
byte ring_slot[WORKERS], ring_seq[WORKERS], ring_part[WORKERS]; /* RING is 1 */
byte grant[WORKERS];           /* incarnation that may begin; they count from 1 */

/* --- kernel ------------------------------------------------------------------------------------------ */
bool wake_changed[WORKERS], asleep[WORKERS], eventfd;
bool reaped[WORKERS];          /* a death the gateway was told of and has not handled */
byte deaths;
bool gateway_dead, finished;
byte home;                     /* workers that ended because the channel was closed, or died for good */

byte answered, lost, canceled, pushed;

/* One step; or death instead of it. A sleeper may die too: its step is to be woken. */
#define W(step) if :: step :: atomic { deaths < DEATHS -> deaths++; goto dead } fi
#if GATEWAY_DIES
#define G(step) if :: step :: goto dead fi
#else
#define G(step) step
#endif

#ifdef BREAK_HELP
#define MAY_MOVE mine
#else
#define MAY_MOVE true
#endif
#define FUTEX_WAIT atomic { if :: !wake_changed[me] -> asleep[me] = true :: else fi }
#define WAKE_WORKER(w) wake_changed[w] = true; asleep[w] = false
#define FILLED(position) (cell_lap[position % CELLS] == position / CELLS + 1)

/* --- worker ------------------------------------------------------------------------------------------- */
proctype worker(byte me)
{
    byte incarnation, h, s, q, part, tail;
    bool mine;

begin: /* channel_worker_attach */
    incarnation++; /* told by the pool process that forked it */
    (grant[me] == incarnation || closed); /* one that dies here holds nothing */

next: /* channel_worker_next, claim_from */
    W(atomic { h = head; if :: closed -> goto came_home :: else fi });
    W(atomic { if :: FILLED(h) -> s = cell_slot[h % CELLS]; q = cell_seq[h % CELLS] :: else -> goto sleep fi });
    W(atomic {
        if
        :: slot[s].state == QUEUED && slot[s].seq == q ->
            slot[s].state = RUNNING; slot[s].owner = me; slot[s].incarnation = incarnation; mine = true
        :: else
        fi
    });
    W(atomic {
        if
        :: head == h && MAY_MOVE -> head = h + 1
        :: else
        fi;
        h = 0;
        if :: mine -> mine = false; goto answer :: else -> s = 0; q = 0; goto next fi
    });

sleep: /* wait_for_work */
    W(atomic { h = 0; wake_changed[me] = false }); /* the word is read */
    W(idle[me] = true);
#ifndef BREAK_SECOND_LOOK
    W(atomic { h = head; if :: closed -> goto withdraw :: else fi });
    W(atomic { if :: FILLED(h) -> goto withdraw :: else fi });
#endif
    W(FUTEX_WAIT);
    W(!asleep[me]);
withdraw:
    W(atomic { idle[me] = false; h = 0 });
    goto next;

answer: /* channel_respond, one record */
    if
    :: tail - ring_head[me] < RING
    :: else -> /* wait_for_space */
        W(wake_changed[me] = false);
        W(waiting[me] = true);
#ifdef BREAK_SPACE_LOOK
        W(atomic { if :: closed -> goto came_home :: else fi });
        W(FUTEX_WAIT);
        W(!asleep[me]);
#else
        W(atomic {
            if
            :: closed -> goto came_home
            :: !closed && tail - ring_head[me] < RING -> goto space
            :: else
            fi
        });
        W(FUTEX_WAIT);
        W(!asleep[me]);
#endif
space:
        W(waiting[me] = false);
        goto answer
    fi;
    W(atomic { /* the record, and publish */
        ring_slot[me] = s; ring_seq[me] = q; ring_part[me] = part; tail++; part++; ring_tail[me] = tail
    });
    W(dirty[me] = true);
    W(atomic { if :: gateway_asleep -> gateway_asleep = false :: else -> goto unsignaled fi });
    W(eventfd = true);
unsignaled:
    if
    :: part < ANSWER -> goto answer
    :: else -> part = 0
    fi;
    W(atomic { slot[s].state = DONE; s = 0; q = 0 }); /* channel_worker_done */
    goto next;

dead: /* of a SIGKILL; the pool process reaps it and tells the gateway */
    atomic {
        asleep[me] = false; s = 0; q = 0; h = 0; part = 0; mine = false; tail = 0; reaped[me] = true;
#if RESPAWN
        goto begin
#endif
    }
came_home:
    home++
}

/* --- gateway ------------------------------------------------------------------------------------------ */
#if WORKERS == 1
#define ANY_REAPED reaped[0]
#else
#define ANY_REAPED (reaped[0] || reaped[1])
#endif
#define SLOT_READY(i) (!use[i].out && (!use[i].pending || use[i].orphaned || slot[i].state == DONE))
#if SLOTS == 1
#define ANY_SLOT SLOT_READY(0)
#else
#define ANY_SLOT (SLOT_READY(0) || SLOT_READY(1))
#endif

/* All that stood in the queue went through; workers may have gone on into the second turn. */
#ifdef BREAK_PACK
#define PACKED (h == round)
#else
#define PACKED (h >= round)
#endif

/* The slot's entry in the gateway's memory. */
typedef use_t { bool out, pending, orphaned; byte seq, part, by }

proctype gateway()
{
    use_t use[SLOTS];
    byte tail, w, i, unwoken, gate_head[WORKERS], incarnations[WORKERS], cancels;
    bool found, dying;
#if CANCELS
    byte h, round;
#endif

    do
    :: w < WORKERS -> /* channel_worker_grant */
        G(atomic { incarnations[w] = 1; grant[w] = 1; WAKE_WORKER(w); w++ })
    :: else -> w = 0; break
    od;

turn:
    do /* channel_push: nobody sees the slot before its cell */
    :: pushed < REQUESTS && ANY_SLOT ->
#if CANCELS
        if
        :: tail - head < CELLS
        :: else -> round = tail; goto pack
        fi;
packed:
#endif
        G(atomic {
            i = 0;
            do
            :: !SLOT_READY(i) -> i++
            :: else -> break
            od;
            use[i].out = true; use[i].pending = false; use[i].orphaned = false;
            use[i].seq = pushed + 1; use[i].part = 0; use[i].by = NONE;
            slot[i].state = QUEUED; slot[i].seq = pushed + 1; slot[i].owner = 0; slot[i].incarnation = 0;
            assert(tail - head < CELLS);
            cell_slot[tail % CELLS] = i; cell_seq[tail % CELLS] = pushed + 1;
            cell_lap[tail % CELLS] = tail / CELLS + 1;
            tail++; unwoken++; pushed++; i = 0
        })
    :: else -> break
    od;

    do /* channel_wake */
    :: w < WORKERS && unwoken > 0 ->
        G(atomic { if :: idle[w] -> idle[w] = false; WAKE_WORKER(w); unwoken-- :: else fi; w++ })
    :: else -> w = 0; unwoken = 0; break
    od;

    if /* clients go away: channel_cancel */
    :: cancels < CANCELS ->
        G(atomic {
            do
            :: i < SLOTS ->
                if
                :: use[i].out && slot[i].state == QUEUED && slot[i].seq == use[i].seq ->
                    slot[i].state = FREE; use[i].out = false; canceled++; cancels++; break
                :: else -> i++
                fi
            :: else -> break
            od;
            i = 0
        })
    :: true
    fi;

    do /* channel_next_dirty, channel_peek, channel_consume, channel_release */
    :: w < WORKERS ->
        G(atomic { if :: dirty[w] -> dirty[w] = false :: else -> goto drunk fi });
        goto drink;
drunk:
        w++
    :: else -> w = 0; break
    od;

    do /* deaths the pool process told of */
    :: w < WORKERS && reaped[w] -> dying = true; goto drink; /* first what its ring still holds */
recovered:
        w++
    :: w < WORKERS && !reaped[w] -> w++
    :: else -> w = 0; break
    od;

    if
    :: answered + lost + canceled == REQUESTS -> goto done
    :: else
    fi;

    /* channel_gateway_sleep */
    G(gateway_asleep = true);
#ifndef BREAK_SLEEP_LOOK
    do
    :: w < WORKERS -> G(atomic { if :: dirty[w] -> w = 0; goto awake :: else -> w++ fi })
    :: else -> w = 0; break
    od;
#endif
    if /* epoll_wait: the eventfd, the pool's socket, or a client who is no longer told 503 */
    :: atomic { eventfd -> eventfd = false }
    :: ANY_REAPED
    :: pushed < REQUESTS && ANY_SLOT
#if GATEWAY_DIES
    :: goto dead
#endif
    fi;
awake:
    G(gateway_asleep = false);
    goto turn;

drink: /* one record of ring w, if it has one */
    G(atomic {
        if
        :: ring_tail[w] == gate_head[w] -> goto drained
        :: else
        fi;
        i = ring_slot[w];
        assert(use[i].out && use[i].seq == ring_seq[w]);
        assert(slot[i].seq == use[i].seq && slot[i].owner == w);
        assert(slot[i].state == RUNNING || slot[i].state == DONE);
        assert(use[i].by == NONE || use[i].by == w);
        assert(use[i].part == ring_part[w]); /* nothing missing, nothing twice */
        use[i].by = w; use[i].part++;
        if
        :: use[i].part == ANSWER -> use[i].out = false; use[i].pending = true; answered++ /* END */
        :: else
        fi;
        i = 0; gate_head[w]++; ring_head[w] = gate_head[w]
    });
#ifndef BREAK_SPACE_WAKE
    G(atomic { if :: !waiting[w] -> goto drink :: else fi }); /* ring_release */
    G(waiting[w] = false);
    G(atomic { WAKE_WORKER(w) });
#endif
    goto drink;
drained:
    if
    :: !dying -> goto drunk
    :: else -> dying = false
    fi;

    /* channel_worker_recover */
    G(atomic {
        reaped[w] = false; idle[w] = false; dirty[w] = false; waiting[w] = false;
        ring_head[w] = 0; ring_tail[w] = 0; gate_head[w] = 0;
        do
        :: i < SLOTS ->
            if
            :: (slot[i].state == RUNNING || slot[i].state == DONE) && slot[i].owner == w &&
               slot[i].incarnation == incarnations[w] && slot[i].seq == use[i].seq && !use[i].orphaned ->
                if
                :: use[i].out ->
                    assert(!found && slot[i].state == RUNNING); /* one at most, and it was running */
                    found = true; lost++; use[i].out = false; use[i].pending = true
                :: else
                fi;
                use[i].orphaned = true
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0; found = false
    });
#ifndef BREAK_RECOVERY_WAKE
    G(atomic {
        if
        :: head != tail ->
            do
            :: i < WORKERS && idle[i] -> idle[i] = false; WAKE_WORKER(i); break
            :: i < WORKERS && !idle[i] -> i++
            :: else -> break
            od
        :: else
        fi;
        i = 0
    });
#endif
#if RESPAWN
    G(atomic { incarnations[w]++; grant[w] = incarnations[w]; WAKE_WORKER(w) });
#endif
    goto recovered;

#if CANCELS
pack: /* queue_pack: one ticket from the head to the tail, if it is still queued */
    G(h = head);
    if
    :: PACKED -> h = 0; round = 0; goto packed
    :: else
    fi;
    G(atomic { if :: head == h -> assert(h < tail); head = h + 1 :: else -> goto pack fi });
    w = cell_slot[h % CELLS];
    G(atomic {
        if
        :: use[w].out && use[w].seq == cell_seq[h % CELLS] && slot[w].state == QUEUED &&
           slot[w].seq == use[w].seq -> w = 0
        :: else -> w = 0; goto pack
        fi
    });
    G(atomic {
        assert(tail - head < CELLS);
        cell_slot[tail % CELLS] = cell_slot[h % CELLS]; cell_seq[tail % CELLS] = cell_seq[h % CELLS];
        cell_lap[tail % CELLS] = tail / CELLS + 1;
        tail++; unwoken++
    });
    goto pack;
#endif

#if GATEWAY_DIES
dead:
    gateway_dead = true;
    goto out;
#endif
done:
    finished = true;
out:
    skip
}

/* The pool process: closes the channel when the gateway has died or all is done, and waits for its
 * workers. One that does not come home leaves it waiting: an invalid end state. */
proctype pool()
{
    byte w;

    (gateway_dead || finished);
    closed = true;
    do
    :: w < WORKERS -> atomic { WAKE_WORKER(w); w++ }
    :: else -> break
    od;
    home == WORKERS;
    assert(gateway_dead || answered + lost + canceled == REQUESTS);
    assert(lost <= deaths)
}

init
{
    byte w;

    atomic {
        do
        :: w < SLOTS -> slot[w].state = FREE; w++
        :: else -> w = 0; break
        od;
        do
        :: w < WORKERS -> run worker(w); w++
        :: else -> break
        od;
        run gateway();
        run pool()
    }
}
