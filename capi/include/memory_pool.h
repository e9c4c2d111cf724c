/*
 * memory_pool.h - a checked O(1) memory pool for network appliances.
 *
 * The C interface of libmempool (MIT license). C99 and C++; nothing but this header and the library
 * is needed:  cc app.c $(pkg-config --cflags --libs libmempool)
 *
 * Words
 *   region     the memory that a pool manages: mapped by the pool, or handed over by the caller
 *   block      memory of any size, from the heap
 *   class      a declared object size; its objects, slots, lie back to back without a header
 *   cache      slots that one thread keeps ready, so that it needs no lock for them
 *
 * Rules that hold for every function
 *   - Every argument is checked. A call that fails changes nothing, returns NULL, false, 0 or a
 *     negative number, and sets the calling thread's last error: memory_pool_get_last_error().
 *     A call that succeeds leaves the last error alone (as errno is left alone).
 *   - Any pointer may be passed to a free: one that is not a live block of the pool is refused.
 *     What cannot be told are frees of one block by two threads at the same instant, a pool that
 *     was mapped and has been destroyed, and uses of memory after its free.
 *   - "Thread-safe pools" are those created with thread_safe = true: all functions may be called
 *     on them by any threads at once, except memory_pool_destroy() and memory_pool_reset(). Other
 *     pools are for one thread at a time.
 *   - Costs: "O(1)" means independent of the number and sizes of live and free blocks, failures
 *     included. "No lock" holds for thread-safe pools once the thread's cache is filled; the lock
 *     is taken once per magazine (up to 128 slots). When memory has run out, the call that notices
 *     returns what idle caches hold: O(slots in them), once.
 *   - After fork() both processes may go on using a thread-safe pool; what the caches of other
 *     threads held at that moment is lost to the child. A child of an ordinary pool has its copy.
 *     Handlers of pthread_atfork() may use pools if they were registered after the library was loaded.
 *   - No function calls longjmp, exit or abort, or throws, and all memory is the pool's: malloc is
 *     called, if at all, by the system, when a thread uses its first pool, or for stdout's buffer.
 */
#ifndef MEMORY_POOL_H
#define MEMORY_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/* Programs written for LibMemPool rely on its header for these three. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ------------------------------------------------------------------------------- */

#define MEMORY_POOL_VERSION_MAJOR 0
#define MEMORY_POOL_VERSION_MINOR 1
#define MEMORY_POOL_VERSION_PATCH 0
/** The version of this header as one number, which grows with it. */
#define MEMORY_POOL_VERSION                                                                        \
    (MEMORY_POOL_VERSION_MAJOR * 10000 + MEMORY_POOL_VERSION_MINOR * 100 +                         \
     MEMORY_POOL_VERSION_PATCH)

/** The version of the library that is running, as MEMORY_POOL_VERSION. Never fails. */
uint32_t memory_pool_version(void);

/* ---- Constants ----------------------------------------------------------------------------- */

/** Alignment of every block where a configuration says nothing else: a cache line. */
#define DEFAULT_ALIGNMENT 64

/** Bytes that the smallest block of the heap takes, its tag included. Slots of classes have no tag
 *  and may be smaller. */
#define MIN_BLOCK_SIZE 32

/** Classes that any pool can have beside the preset table. */
#define MAX_SIZE_CLASSES 16

/** Classes that a pool can have in all. The preset table takes 72 of them at most, fewer in small
 *  regions and at large alignments. */
#define MEMORY_POOL_MAX_CLASSES 128

/* ---- Errors -------------------------------------------------------------------------------- */

/** Why a call failed. */
typedef enum pool_error {
    POOL_OK = 0,
    /** An argument that must point to something is NULL. */
    POOL_ERROR_NULL_POINTER = 1,
    /** The handle is not a live pool or local cache: destroyed, or overwritten. */
    POOL_ERROR_INVALID_HANDLE = 2,
    /** A size of zero, or a size or product of sizes that overflows. */
    POOL_ERROR_INVALID_SIZE = 3,
    /** The alignment is not a power of two, or too large. */
    POOL_ERROR_INVALID_ALIGNMENT = 4,
    /** A flag, reserved field or other value in pool_config_t that means nothing. */
    POOL_ERROR_INVALID_CONFIG = 5,
    /** The region cannot hold the pool's own tables and one block. */
    POOL_ERROR_REGION_TOO_SMALL = 6,
    /** The region is larger than a block's tag can say: more than a 64-bit system can map. */
    POOL_ERROR_REGION_TOO_LARGE = 7,
    /** The system refused memory or pages. */
    POOL_ERROR_SYSTEM = 8,
    /** Less memory is free than is needed, after everything idle was reclaimed: free some. */
    POOL_ERROR_OUT_OF_MEMORY = 9,
    /** No class has this id, or none is large enough. */
    POOL_ERROR_UNKNOWN_CLASS = 10,
    /** The pool has as many classes as it can have. */
    POOL_ERROR_TOO_MANY_CLASSES = 11,
    /** No slab of this pool can hold slots of this size. */
    POOL_ERROR_INVALID_CLASS_SIZE = 12,
    /** There is no room for as many slots as the class was to have. */
    POOL_ERROR_RESERVE_TOO_LARGE = 13,
    /** The class has handed out as many slots as its limit allows. Not counted as a failure. */
    POOL_ERROR_CLASS_LIMIT = 14,
    /** The pointer lies outside the pool. */
    POOL_ERROR_FOREIGN_POINTER = 15,
    /** The pointer lies in the pool, but no block starts there (or its tag was overwritten). */
    POOL_ERROR_NOT_A_BLOCK = 16,
    /** The block is not live: a double free, or it was never handed out. */
    POOL_ERROR_DOUBLE_FREE = 17,
    /** The block is not a slot of the class that the call said, or not a slot at all. */
    POOL_ERROR_WRONG_CLASS = 18,
    /** The pool's own data has been overwritten. */
    POOL_ERROR_CORRUPTED = 19,
    /** A mistake of the library itself; please report it. */
    POOL_ERROR_INTERNAL = 20,
    /** Somebody wrote past the end of the block (POOL_CANARY). It stays allocated. */
    POOL_ERROR_OVERRUN = 21,
    /** The size is larger than the pool could serve if it were empty: it needs a larger region. */
    POOL_ERROR_TOO_LARGE = 22,
    /** Enough memory is free (pool_stats_t.free_bytes), but no free block is large enough
     *  (pool_stats_t.largest_free): memory_pool_defragment() may help, and size classes do. */
    POOL_ERROR_FRAGMENTED = 23,
    /** Less memory is free than is needed, but with the unused slots that classes keep in reserve it
     *  would do: they may be too many. */
    POOL_ERROR_RESERVED = 24,
    /** The block cannot be of the size that memory_pool_free_sized() was given. It stays allocated. */
    POOL_ERROR_WRONG_SIZE = 25
} pool_error_t;

/** The reason for the calling thread's last failed call; POOL_OK before the first. O(1). */
pool_error_t memory_pool_get_last_error(void);

/** An error in words, in English; never NULL, and never to be freed. Any number may be passed. */
const char *memory_pool_error_string(pool_error_t error);

/* ---- Making and ending pools --------------------------------------------------------------- */

/** A pool. Its handle lies at the start of its memory. */
typedef struct memory_pool memory_pool_t;

/** Flags of pool_config_t: guarantees beyond the default checks. Each costs a pass over the block. */
#define POOL_ZERO_ON_ALLOC 0x1u /**< every allocation is zeroed */
#define POOL_ZERO_ON_FREE 0x2u  /**< contents are zeroed when freed */
/** Contents are filled with 0xDF when freed; a block that was written to since is counted in
 *  damaged_blocks when it would be handed out again, and never used. Touches all memory at once. */
#define POOL_POISON 0x4u
/** Blocks end where they were asked to, to the byte; what is behind is checked when they are freed. */
#define POOL_CANARY 0x8u
/** Which of the slots that are ready is handed out next is random. */
#define POOL_RANDOM 0x10u
/** Freed blocks wait before they can be handed out again, so that a second free or a use after the
 *  free meets the block that it is about. What waits is bounded: 1/64 of the region per cache, and as
 *  much for the heap. It is given back when memory runs out, by flushes, memory_pool_defragment() and
 *  memory_pool_reset(). */
#define POOL_QUARANTINE 0x20u
/** Pages without access lie behind each slab (in pools of 4 MiB and more) and on both sides of each
 *  block of 64 KiB and more: running into one raises SIGSEGV. In the caller's memory
 *  (memory_pool_create_in()) it does nothing. What the system refuses is counted in guard_failures. */
#define POOL_GUARD 0x40u
/** The sizes that are asked for are counted, for memory_pool_advise(). Each allocation takes the lock. */
#define POOL_PROFILE 0x80u
/** Everything that finds mistakes or makes them harmless. */
#define POOL_HARDENED \
    (POOL_ZERO_ON_FREE | POOL_POISON | POOL_CANARY | POOL_RANDOM | POOL_QUARANTINE | POOL_GUARD)

/** Pages of pool_config_t. Without any: transparent huge pages where the system has them. */
#define POOL_PAGES_SMALL 0x1u      /**< never huge pages */
#define POOL_PAGES_HUGE 0x2u       /**< explicit huge pages if there are any, else transparent */
#define POOL_PAGES_PREFAULT 0x4u   /**< populate all pages when the pool is created */
#define POOL_PAGES_LOCK 0x8u       /**< keep the pages out of swap (mlock) */
#define POOL_PAGES_OVERCOMMIT 0x10u /**< address space only; memory is found when touched */

/** What a pool is to be. Zero in any field, and in all that are not named, means the default. */
typedef struct pool_config {
    /** Bytes of the region, the pool's own tables included; rounded up to pages. Required, except
     *  by memory_pool_create_in(), which ignores it. */
    size_t pool_size;
    /** Whether several threads use the pool; each gets a cache of its own then. */
    bool thread_safe;
    /** Alignment of every block and unit that sizes are rounded to: a power of two up to 4096.
     *  Default: DEFAULT_ALIGNMENT. 16 suits small objects, as malloc has it. */
    size_t alignment;
    /** Whether requests are served from size classes where one fits with little waste: much faster
     *  than the heap. Default: everything comes from the heap until classes are added. */
    bool enable_size_classes;
    /** The classes' sizes; NULL for the preset table, which wastes at most an eighth. */
    const size_t *size_class_sizes;
    /** How many there are: at most MEMORY_POOL_MAX_CLASSES. */
    size_t num_size_classes;
    /** POOL_ZERO_ON_ALLOC and so on, combined with |. */
    uint32_t flags;
    /** POOL_PAGES_HUGE and so on, combined with |; no meaning in memory_pool_create_in(). */
    uint32_t pages;
    /** Slots per magazine; a thread caches two of them per class. Default: 2 to 128, by size, and more
     *  than two where a thread's own bursts fill them. */
    size_t magazine_slots;
    /** Mixed into the key of the block checksums, to which a random number is added anyway. */
    uint64_t key;
    /** Zero. */
    uint64_t reserved[4];
} pool_config_t;

/**
 * A pool of `size` bytes that are mapped now, with the preset size classes and DEFAULT_ALIGNMENT.
 * `thread_safe`: several threads may use it; each gets a cache of its own, so that allocating takes
 * no lock. A fixed number of system calls; pages are populated when they are first touched.
 *
 * NULL: POOL_ERROR_INVALID_SIZE, POOL_ERROR_REGION_TOO_SMALL, POOL_ERROR_REGION_TOO_LARGE,
 * POOL_ERROR_SYSTEM; nothing stays mapped.
 */
memory_pool_t *memory_pool_create(size_t size, bool thread_safe);

/**
 * A pool as `config` says; `config` and what it points to are not needed any more afterwards.
 *
 * NULL: as memory_pool_create(), and POOL_ERROR_NULL_POINTER, POOL_ERROR_INVALID_CONFIG,
 * POOL_ERROR_INVALID_ALIGNMENT, POOL_ERROR_INVALID_CLASS_SIZE, POOL_ERROR_TOO_MANY_CLASSES.
 */
memory_pool_t *memory_pool_create_with_config(const pool_config_t *config);

/**
 * A pool in the caller's memory: static, shared, on-chip. No system call is made. Until the pool is
 * destroyed the memory is the pool's alone; the pool's handle lies in it too. `config` may be NULL:
 * one thread, the preset classes, DEFAULT_ALIGNMENT. Any address and size are accepted; what does
 * not fill whole units at both ends is not used.
 *
 * NULL: as memory_pool_create_with_config(); the memory is the caller's again.
 */
memory_pool_t *memory_pool_create_in(void *region, size_t size, const pool_config_t *config);

/**
 * Ends a pool: all its blocks with it, and mapped memory goes back to the system. NULL does
 * nothing. Nobody may be in a call on the pool, local caches of it must have been destroyed, and no
 * call may be made on it afterwards. Threads that have used it may live on. O(1), and the unmapping.
 */
void memory_pool_destroy(memory_pool_t *pool);

/**
 * Frees everything at once: every block and slot, whoever has it, and what all caches hold. Classes
 * and their slots stay, and so do local caches. Nobody may be in another call on the pool. Pointers
 * from before are dead: freeing one is refused. O(blocks + slots + threads).
 *
 * false: POOL_ERROR_NULL_POINTER, POOL_ERROR_INVALID_HANDLE, POOL_ERROR_CORRUPTED (what lay before
 * the damage is free).
 */
bool memory_pool_reset(memory_pool_t *pool);

/* ---- Allocating ---------------------------------------------------------------------------- */

/**
 * At least `size` bytes, aligned as the pool is, contents undefined. From the size class that
 * suits, without a lock; else from the heap, under it. O(1).
 *
 * NULL: POOL_ERROR_INVALID_SIZE (zero, or huge); for want of memory POOL_ERROR_OUT_OF_MEMORY,
 * POOL_ERROR_FRAGMENTED, POOL_ERROR_RESERVED or POOL_ERROR_TOO_LARGE; POOL_ERROR_CORRUPTED,
 * POOL_ERROR_NULL_POINTER, POOL_ERROR_INVALID_HANDLE.
 */
void *memory_pool_alloc(memory_pool_t *pool, size_t size);

/**
 * As memory_pool_alloc(), at a multiple of `alignment`, a power of two. O(1).
 *
 * NULL: as memory_pool_alloc(), and POOL_ERROR_INVALID_ALIGNMENT.
 */
void *memory_pool_alloc_aligned(memory_pool_t *pool, size_t size, size_t alignment);

/** `count * size` bytes, all zero. O(1), plus the zeroing. NULL: as memory_pool_alloc(); a product
 *  that overflows is POOL_ERROR_INVALID_SIZE. */
void *memory_pool_calloc(memory_pool_t *pool, size_t count, size_t size);

/**
 * Changes a block's size: where it is if it can be, else by moving it; contents up to the smaller
 * size are kept. `ptr == NULL` allocates; `new_size == 0` frees, and returns NULL without an error.
 * The pool's alignment is kept, a larger one of memory_pool_alloc_aligned() is not. O(1), plus the
 * copying.
 *
 * NULL: as memory_pool_alloc() and memory_pool_free(); the block is as it was, and still live.
 */
void *memory_pool_realloc(memory_pool_t *pool, void *ptr, size_t new_size);

/**
 * A slot of the smallest class that holds `size` bytes. O(1), no lock.
 *
 * NULL: POOL_ERROR_UNKNOWN_CLASS if there is none; else as memory_pool_alloc(), and
 * POOL_ERROR_CLASS_LIMIT.
 */
void *memory_pool_alloc_fixed(memory_pool_t *pool, size_t size);

/** Bytes that a live block or slot really has, at least what was asked for. O(1), no lock for slots.
 *  0: POOL_ERROR_FOREIGN_POINTER and the other errors of memory_pool_free(). */
size_t memory_pool_usable_size(memory_pool_t *pool, const void *ptr);

/* ---- Freeing ------------------------------------------------------------------------------- */

/**
 * Frees a block or slot of any allocating function, on any thread; NULL does nothing, successfully.
 * O(1); no lock for slots.
 *
 * false, and nothing changes but the count of refusals: POOL_ERROR_FOREIGN_POINTER,
 * POOL_ERROR_NOT_A_BLOCK, POOL_ERROR_DOUBLE_FREE, POOL_ERROR_CORRUPTED, POOL_ERROR_NULL_POINTER (the
 * pool), POOL_ERROR_INVALID_HANDLE. The corruption handler is called.
 */
bool memory_pool_free(memory_pool_t *pool, void *ptr);

/**
 * As memory_pool_free(), where the caller states the size that the block was allocated with, or has
 * got by memory_pool_realloc() since: a free of another block than was meant shows. In pools with
 * POOL_CANARY the size must be right to the byte; else it must be one that the block or slot can have
 * been allocated for.
 *
 * false: POOL_ERROR_WRONG_SIZE, POOL_ERROR_INVALID_SIZE (overflow), or as memory_pool_free().
 */
bool memory_pool_free_sized(memory_pool_t *pool, void *ptr, size_t size);

/** As memory_pool_free(), for slots only: a block of the heap is POOL_ERROR_WRONG_CLASS. */
bool memory_pool_free_fixed(memory_pool_t *pool, void *ptr);

/* ---- Tuning -------------------------------------------------------------------------------- */

/**
 * Has the system back the pool's memory now, so that no first touch costs a page fault later. In the
 * caller's region, touches its free memory. O(pages).
 *
 * false: POOL_ERROR_SYSTEM (everything works as before), POOL_ERROR_NULL_POINTER,
 * POOL_ERROR_INVALID_HANDLE.
 */
bool memory_pool_warmup(memory_pool_t *pool);

/**
 * Returns what the pool and the calling thread keep ready, cached slots and empty slabs, to the
 * heap, and merges freed blocks that are still apart (a thousandth of the region at most). Live blocks
 * are not moved. Returns the bytes that the heap got; 0 with an error as memory_pool_warmup().
 * O(slots that were cached), under the lock.
 */
size_t memory_pool_defragment(memory_pool_t *pool);

/** Returns what the calling thread's cache holds, before it goes idle for long. O(cached slots),
 *  under the lock. false: POOL_ERROR_NULL_POINTER, POOL_ERROR_INVALID_HANDLE. */
bool memory_pool_flush_thread(memory_pool_t *pool);

/**
 * Adds a class for objects of `size` bytes and sets aside `count` slots for it, which stay its own;
 * beyond those it grows while there is memory. O(count), under the lock.
 *
 * Returns the class's id, from 0 on. Negative: minus a pool_error_t, which is the last error too:
 * POOL_ERROR_INVALID_CLASS_SIZE, POOL_ERROR_TOO_MANY_CLASSES, POOL_ERROR_RESERVE_TOO_LARGE,
 * POOL_ERROR_OUT_OF_MEMORY, POOL_ERROR_NULL_POINTER, POOL_ERROR_INVALID_HANDLE; no class is added.
 */
int memory_pool_add_size_class(memory_pool_t *pool, size_t size, size_t count);

/** Called when a class has fewer slots ready than its low watermark: how many are left. */
typedef void (*memory_pool_low_watermark_t)(memory_pool_t *pool, int class_id, size_t left,
                                            void *user_data);

/** What a size class is to be. Zero in any field but the size means that there is none. */
typedef struct pool_class_config {
    /** Bytes of its objects. Required. */
    size_t size;
    /** Slots that are set aside for it, and stay its own. */
    size_t reserve;
    /** Slots that it may have handed out at most, those in caches included: at least the reserve. What it
     *  refuses then fails with POOL_ERROR_CLASS_LIMIT, and counts as a limit hit, not as a failure. */
    size_t limit;
    /** Whether slots are spread over the processor cache's sets: for sizes that are a multiple of a large
     *  power of two. */
    bool coloured;
    /** Whether it is kept to those who name it by its id: requests by size do not draw on it. */
    bool dedicated;
    /** When fewer slots than this are ready (within the limit), `on_low` is called; goes with `on_low`. */
    size_t low_watermark;
    /** Called once each time they do, on the thread that made the call, after that and without a lock:
     *  it may use the pool. */
    memory_pool_low_watermark_t on_low;
    /** Passed on to `on_low`. */
    void *user_data;
    /** Zero. */
    uint64_t reserved[4];
} pool_class_config_t;

/**
 * As memory_pool_add_size_class(), with all that a class can have. `config` is not needed any more
 * afterwards.
 *
 * Returns and errors as there, and POOL_ERROR_INVALID_CONFIG: a limit below the reserve, a watermark
 * without a function or the other way round, or a reserved field.
 */
int memory_pool_add_size_class_with(memory_pool_t *pool, const pool_class_config_t *config);

/** The id of the smallest class that holds `size` bytes. O(1), under the lock; keep the answer.
 *  Negative: minus POOL_ERROR_UNKNOWN_CLASS and so on, as memory_pool_add_size_class(). */
int memory_pool_class_of(memory_pool_t *pool, size_t size);

/** A size class that memory_pool_advise() suggests. The counts are of all requests so far. */
typedef struct pool_advice {
    size_t size;          /**< the size to declare */
    size_t requests;      /**< requests that the class would have served */
    size_t bytes;         /**< the bytes that those asked for */
    ptrdiff_t saved;      /**< bytes that those would have taken less than they did; or more, if < 0 */
    double request_share; /**< `requests` as a part of all, from 0 to 1 */
    double byte_share;    /**< `bytes` as a part of all, from 0 to 1 */
} pool_advice_t;

/**
 * Writes up to `n` size classes (16 at most) to `out`, from the smallest on: those that would leave
 * the least memory unused and the fewest requests to the heap, for the sizes that were asked for so
 * far. The pool must have been created with POOL_PROFILE: run it under the real load for a while, ask,
 * and create it with the sizes suggested, without the flag. Some million steps, under the lock.
 *
 * Returns how many. Negative: minus POOL_ERROR_INVALID_CONFIG (the pool does not count),
 * POOL_ERROR_NULL_POINTER, POOL_ERROR_INVALID_HANDLE, as memory_pool_add_size_class().
 */
int memory_pool_advise(memory_pool_t *pool, pool_advice_t *out, size_t n);

/* ---- Looking ------------------------------------------------------------------------------- */

/** A pool's figures at one moment. Sizes are bytes. While other threads run, what is live and cached
 *  may be off by the calls under way. */
typedef struct pool_stats {
    size_t pool_size;         /**< the region, without the handle in front of it */
    size_t metadata_bytes;    /**< the pool's own tables, caches and magazines */
    size_t live_bytes;        /**< usable bytes of blocks and slots in callers' hands */
    size_t live_objects;      /**< their number */
    size_t peak_bytes;        /**< most bytes that were live or cached at once */
    size_t cached_bytes;      /**< slots that caches keep ready, or that wait */
    size_t cached_objects;    /**< their number */
    size_t free_bytes;        /**< free blocks of the heap, without free slots of slabs */
    size_t free_blocks;       /**< their number */
    size_t largest_free;      /**< the largest of them; low by less than 1/8 if many compete */
    size_t slab_bytes;        /**< slabs of all classes */
    size_t num_size_classes;  /**< classes */
    size_t num_caches;        /**< caches of threads, local caches, and of the pool itself */
    size_t failures;          /**< requests that could not be served, but for limit_hits */
    size_t refused_frees;     /**< frees and reallocations of what was not a live block */
    uint32_t fragmentation;   /**< percent of the free bytes that are not in the largest block */
    uint32_t reserved0;       /**< zero */
    size_t damaged_blocks;    /**< freed blocks that were found damaged, and are left alone */
    size_t quarantined_bytes; /**< freed blocks and slots that wait (POOL_QUARANTINE) */
    size_t quarantined_objects; /**< their number */
    size_t guard_bytes;       /**< pages without access (POOL_GUARD) */
    size_t guard_failures;    /**< how often a guard was done without, or could not be removed */
    size_t limit_hits;        /**< requests that met the limit of the class that they named */
    size_t reserved[2];       /**< zero */
} pool_stats_t;

/** Writes the pool's figures to `stats`. O(classes * caches), under the lock. false:
 *  POOL_ERROR_NULL_POINTER, POOL_ERROR_INVALID_HANDLE. */
bool memory_pool_get_stats(memory_pool_t *pool, pool_stats_t *stats);

/** Prints the pool's figures and those of each class that was used to stdout. Cost and errors as
 *  memory_pool_get_stats(). */
bool memory_pool_print_stats(memory_pool_t *pool);

/**
 * Checks everything the pool keeps: block tags, lists, slabs, slot states, caches, counters. O(blocks
 * + slots) for every 16 classes, under the lock; other threads may use their caches meanwhile.
 *
 * false: POOL_ERROR_CORRUPTED (the corruption handler learns the address), POOL_ERROR_NULL_POINTER,
 * POOL_ERROR_INVALID_HANDLE.
 */
bool memory_pool_validate(memory_pool_t *pool);

/** Bytes of pool_damage_t.text, its end included. */
#define POOL_DAMAGE_TEXT 256

/** Damage, and what lies just below it: most likely somebody wrote past its end. */
typedef struct pool_damage {
    const void *address;         /**< the damaged byte or word */
    int class_id;                /**< the class whose slot it is in; -1: the heap's, or a table's */
    int below_class_id;          /**< the class of what lies below; -1: it is a block of the heap */
    const void *below;           /**< the block or slot below, or that was overrun; NULL: none found */
    bool below_is_live;          /**< somebody has it now; false: it is free, or the pool's own */
    char text[POOL_DAMAGE_TEXT]; /**< all of this in one sentence, in English */
} pool_damage_t;

/**
 * As memory_pool_validate(), to print what it finds: true if there is damage, the first of which is
 * described in `damage` then, and the last error is left alone. O(blocks + slots), under the lock.
 *
 * false: the pool is sound; or, with the last error, POOL_ERROR_NULL_POINTER,
 * POOL_ERROR_INVALID_HANDLE.
 */
bool memory_pool_find_damage(memory_pool_t *pool, pool_damage_t *damage);

/** Whether an address lies in the pool's region, live block or not. O(1). false without an error for
 *  an address outside; POOL_ERROR_NULL_POINTER (the pool), POOL_ERROR_INVALID_HANDLE. */
bool memory_pool_contains(memory_pool_t *pool, const void *ptr);

/** Called when a pointer is refused, or damage is found: POOL_ERROR_CORRUPTED also by an allocation that
 *  comes by freed memory that was written to (POOL_POISON), and succeeds with other memory. `address`:
 *  the pointer, or where the damage is. */
typedef void (*memory_pool_corruption_handler_t)(memory_pool_t *pool, pool_error_t error,
                                                 const void *address, void *user_data);

/**
 * Has `handler` called on the thread that made the call, after the call has done its work and without
 * a lock: it may use the pool. A call that comes by several faults has it called for each of the first
 * seven, and the last. NULL ends it. Set it before the pool is shared. O(1).
 *
 * false: POOL_ERROR_NULL_POINTER (the pool), POOL_ERROR_INVALID_HANDLE.
 */
bool memory_pool_set_corruption_handler(memory_pool_t *pool,
                                        memory_pool_corruption_handler_t handler,
                                        void *user_data);

/* ---- Local caches --------------------------------------------------------------------------
 * For those who pass a handle around: a packet thread, a core. The fastest way, and the only one in
 * bulk. A local cache is used by one thread at a time; slots may be freed through another one, or
 * without one, than they came from. */

/** A cache of a pool, for one thread at a time. */
typedef struct memory_pool_local memory_pool_local_t;

/** A local cache of `pool`. O(1), under the lock. NULL: for want of memory as memory_pool_alloc(),
 *  POOL_ERROR_NULL_POINTER, POOL_ERROR_INVALID_HANDLE. */
memory_pool_local_t *memory_pool_local_create(memory_pool_t *pool);

/** Returns what the cache holds, and ends it. NULL does nothing. O(cached slots), under the lock. */
void memory_pool_local_destroy(memory_pool_local_t *local);

/** As memory_pool_alloc(). */
void *memory_pool_local_alloc(memory_pool_local_t *local, size_t size);

/** As memory_pool_free(). */
bool memory_pool_local_free(memory_pool_local_t *local, void *ptr);

/** A slot of a class. O(1), no lock. NULL: POOL_ERROR_UNKNOWN_CLASS and the errors of
 *  memory_pool_alloc_fixed(). */
void *memory_pool_local_alloc_fixed(memory_pool_local_t *local, int class_id);

/** Frees a slot of this class; one of another is POOL_ERROR_WRONG_CLASS. O(1), no lock. */
bool memory_pool_local_free_fixed(memory_pool_local_t *local, int class_id, void *ptr);

/** Fills `objs` with `n` slots of a class. O(n). Returns n, or 0 with an error as
 *  memory_pool_local_alloc_fixed(): what `objs` holds then means nothing. */
size_t memory_pool_local_alloc_bulk(memory_pool_local_t *local, int class_id, void **objs, size_t n);

/** Frees `n` slots of a class, from the front up to the first that is refused. O(n). Returns how
 *  many were freed; if fewer than n, the last error says why, and the rest are as they were. */
size_t memory_pool_local_free_bulk(memory_pool_local_t *local, int class_id, void *const *objs,
                                   size_t n);

#ifdef __cplusplus
}
#endif

#endif /* MEMORY_POOL_H */
