/* Viterbi over the bitshift trellis: the cheapest path of states, sequence by sequence. See codebooks/viterbi.py.
 *
 * Between two steps only the minima are kept: m[p], the least cost of a state whose low L - k' bits are p, k' being the
 * bits that the next step consumes. One step, k bits in, is
 *
 *     m'[q 2^k + j] = min over d < 2^k' of  m[d Q + q] + w |x - c(d Q + q, j)|^2        Q = 2^(L - k - k')
 *
 * with c(r, j) the value of state r 2^k + j. Costs are not negative, so their float bits order like integers; d takes
 * the place of the low k' bits of the mantissa, and one integer minimum gives both the cost and the way back. The loop
 * over q is the one that vectors go along, c being turned so that it is contiguous in q; where there are few q and many
 * j (``wide``), it is that over j. Ways back are stored packed. Columns q are done in blocks whose part of the table
 * stays in the first-level cache for several sequences.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BITS 8 /* of a step */
#define FAR 1e30f   /* cost of a state that may not be used */
#define GROUP 4     /* sequences that share a block of the table */
#define BLOCK 4096  /* table entries of a block */
#define IN_ORDER __asm__ volatile("" ::: "memory") /* or compilers go along d, whose data lie far apart */
#define INLINE static inline __attribute__((always_inline))

typedef int32_t __attribute__((may_alias)) key_t; /* a cost in the order of integers, its low bits the way back */

typedef struct {
    int L, V, weighted;
    long T, size; /* steps; bytes of the ways back of one */
    const float *x, *w;
    const uint8_t *steps;
    const float *table[MOST_BITS + 1]; /* what a step of k bits reads: (V, 2^k, stride), or wide (V, 2^L) */
} trellis;

static int wide(int L, int k) { return L - 2 * k < 4; }

/* From j to j + 1 in a table: not a power of two, so that the parts of a block fall into different sets of the cache. */
static long stride(int L, int k) { return (1L << (L - k)) + (BLOCK >> 2 * k > 16 ? BLOCK >> 2 * k : 16); }

/* The key of coming by way d. */
INLINE int32_t key_of(int V, int weighted, const float *x, float w, float m, const float *c, const float *c1,
                      int32_t keep, int d) {
    float e = (x[0] - *c) * (x[0] - *c);
    if (V == 2) e += (x[1] - *c1) * (x[1] - *c1);
    if (weighted) e *= w;
    const float cost = m + e;
    int32_t bits;
    memcpy(&bits, &cost, sizeof bits);
    return (bits & keep) | d;
}

INLINE int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

/* The least of G ways from d on. KEY is that of one. */
#define LEAST(G, d)                                     \
    (G == 1   ? KEY(d)                                  \
     : G == 2 ? least(KEY(d), KEY(d + 1))               \
              : least(least(KEY(d), KEY(d + 1)), least(KEY(d + 2), KEY(d + 3))))

/* One block: out[j][q] for q < count, ``m`` and ``c`` beginning at its first column; ``wide`` all at once: out[q][j]. */
INLINE void fold(int V, int weighted, int G, const trellis *a, int k, int next, long count, const float *restrict m,
                 const float *restrict c, const float *restrict at, float w, key_t *restrict out) {
    const long Q = 1L << (a->L - k - next), J = 1L << k, D = 1L << next, along = stride(a->L, k), one = J * along;
    const int32_t keep = -(1 << next);
    const float x[2] = {at[0], V == 2 ? at[1] : 0};
    if (wide(a->L, k)) {
#define KEY(d) key_of(V, weighted, x, w, m[(d) * Q], c + (d) * Q * J + j, c + one + (d) * Q * J + j, keep, d)
        for (long q = 0; q < Q; q++, m++, c += J, out += J) {
            for (long j = 0; j < J; j++) out[j] = LEAST(G, 0);
            for (int d = G; d < D; d += G) {
                IN_ORDER;
                for (long j = 0; j < J; j++) out[j] = least(out[j], LEAST(G, d));
            }
        }
#undef KEY
        return;
    }
#define KEY(d) key_of(V, weighted, x, w, m[(d) * Q + q], c + (d) * Q + q, c + one + (d) * Q + q, keep, d)
    for (long j = 0; j < J; j++, c += along, out += count) {
        for (long q = 0; q < count; q++) out[q] = LEAST(G, 0);
        for (int d = G; d < D; d += G) {
            IN_ORDER;
            for (long q = 0; q < count; q++) out[q] = least(out[q], LEAST(G, d));
        }
    }
#undef KEY
}

#define FOLD(V, weighted, G)                                                                                         \
    static void fold_##V##weighted##G(const trellis *a, int k, int next, long count, const float *m, const float *c, \
                                      const float *x, float w, key_t *out) {                                         \
        fold(V, weighted, G, a, k, next, count, m, c, x, w, out);                                                    \
    }
FOLD(1, 0, 1) FOLD(1, 0, 2) FOLD(1, 0, 4) FOLD(1, 1, 1) FOLD(1, 1, 2) FOLD(1, 1, 4)
FOLD(2, 0, 1) FOLD(2, 0, 2) FOLD(2, 0, 4) FOLD(2, 1, 1) FOLD(2, 1, 2) FOLD(2, 1, 4)

typedef void fold_function(const trellis *, int, int, long, const float *, const float *, const float *, float, key_t *);
static fold_function *const FOLDS[2][2][3] = {
    {{fold_101, fold_102, fold_104}, {fold_111, fold_112, fold_114}},
    {{fold_201, fold_202, fold_204}, {fold_211, fold_212, fold_214}},
};

/* Where the windows of two steps overlap in more than all bits (Q < 1), state by state. */
static void fold_short(const trellis *a, int k, int next, const float *m, const float *x, float w, key_t *out) {
    const long along = stride(a->L, k), one = along << k;
    const int32_t low = (1 << next) - 1;
    for (long p = 0; p < 1L << (a->L - next); p++) {
        int32_t best = INT32_MAX;
        for (int d = 0; d <= low; d++) {
            const long s = p + ((long)d << (a->L - next));
            const float *c = a->table[k] + (wide(a->L, k) ? s : (s & ((1 << k) - 1)) * along + (s >> k));
            best = least(best, key_of(a->V, a->weighted, x, w, m[s >> k], c, c + one, ~low, d));
        }
        out[p] = best;
    }
}

/* to[q J + j] = from[j][q] for q < count. */
INLINE void interleave(int J, long count, const key_t *restrict from, key_t *restrict to) {
    for (long q = 0; q < count; q++)
        for (int j = 0; j < J; j++) to[q * J + j] = from[j * count + q];
}

static void natural_order(int k, long count, const key_t *from, key_t *to) {
    switch (k) {
    case 0: interleave(1, count, from, to); break;
    case 1: interleave(2, count, from, to); break;
    case 2: interleave(4, count, from, to); break;
    case 3: interleave(8, count, from, to); break;
    case 4: interleave(16, count, from, to); break;
    default: interleave(1 << k, count, from, to);
    }
}

/* Ways back: one of k bits for each p, packed into 2^bytes bytes: that of p in byte p mod 2^bytes, behind those before. */
static int log_bytes(int L, int k) {
    const int parts = k == 1 ? 3 : k == 2 ? 2 : k <= 4; /* log of how many fit into a byte */
    return L - k - (L - k < parts ? 0 : parts);
}

INLINE void pack(int P, int k, long size, const key_t *restrict keys, uint8_t *restrict back) {
    const int32_t low = (1 << k) - 1;
    for (long i = 0; i < size; i++) {
        int32_t byte = 0;
        for (int part = 0; part < P; part++) byte |= (keys[part * size + i] & low) << part * k;
        back[i] = (uint8_t)byte;
    }
}

static void store_back(int L, int k, const key_t *keys, uint8_t *back) {
    const int bytes = log_bytes(L, k);
    switch (L - k - bytes) {
    case 0: pack(1, k, 1L << bytes, keys, back); break;
    case 1: pack(2, k, 1L << bytes, keys, back); break;
    case 2: pack(4, k, 1L << bytes, keys, back); break;
    default: pack(8, k, 1L << bytes, keys, back);
    }
}

INLINE long came_from(int L, int k, const uint8_t *back, long p) {
    const int bytes = log_bytes(L, k);
    const long d = (back[p & ((1L << bytes) - 1)] >> (p >> bytes) * k) & ((1 << k) - 1);
    return p + (d << (L - k));
}

typedef struct {
    key_t *m, *to; /* minima before and after a step */
    uint8_t *back; /* (T, size) */
} work;

/* Step t of n sequences from ``first`` on, ``next`` being the bits of the one behind it. */
static void advance(const trellis *a, long first, int n, work *of, long t, int next) {
    const int k = a->steps[t], both = k + next, apart = wide(a->L, k);
    const long Q = both > a->L ? 0 : 1L << (a->L - both), block = BLOCK >> both < 16 ? 16 : BLOCK >> both;
    const long count = apart || Q < block ? Q : block;
    fold_function *const fold_block = FOLDS[a->V - 1][a->weighted][next < 2 ? next : 2];
    key_t found[BLOCK] __attribute__((aligned(64)));
    for (long q = 0; q < Q; q += count)
        for (int i = 0; i < n; i++) {
            const long at = (first + i) * a->T + t;
            key_t *const to = of[i].to + (q << k);
            fold_block(a, k, next, count, (const float *)of[i].m + q, a->table[k] + q, a->x + at * a->V,
                       a->weighted ? a->w[at] : 1, apart ? to : found);
            if (!apart) natural_order(k, count, found, to);
        }
    for (int i = 0; i < n; i++) {
        const long at = (first + i) * a->T + t;
        if (Q == 0)
            fold_short(a, k, next, (const float *)of[i].m, a->x + at * a->V, a->weighted ? a->w[at] : 1, of[i].to);
        key_t *const before = of[i].m;
        of[i].m = of[i].to;
        of[i].to = before;
    }
}

/* ``count`` steps from step ``from`` on, round the wrap; ways back are kept from the ``kept``-th on. */
static void walk(const trellis *a, long first, int n, work *of, long from, long count, long kept) {
    for (long i = 0, t = from; i < count; i++) {
        const long after = t + 1 == a->T ? 0 : t + 1;
        advance(a, first, n, of, t, a->steps[after]);
        for (int s = 0; s < n && i >= kept; s++)
            store_back(a->L, a->steps[after], of[s].m, of[s].back + (i - kept) * a->size);
        t = after;
    }
}

/* Back from step ``last`` over ``count`` steps; p are the low bits behind the last. */
static void trace(const trellis *a, const work *of, long last, long count, long p, int32_t *states) {
    int next = a->steps[last + 1 == a->T ? 0 : last + 1];
    for (long i = count - 1, t = last; i >= 0; i--, t = t ? t - 1 : a->T - 1) {
        const long s = came_from(a->L, next, of->back + i * a->size, p);
        states[i] = (int32_t)s;
        next = a->steps[t];
        p = s >> next;
    }
}

static long cheapest(const key_t *m, long count) {
    long best = 0;
    for (long p = 1; p < count; p++)
        if (m[p] < m[best]) best = p;
    return best;
}

/* The table of k bits in its order, from (2^L, V). */
static void turn(int L, int V, int k, const float *from, float *to) {
    const long rows = 1L << (L - k), J = 1L << k;
    for (int v = 0; v < V; v++, to += J * stride(L, k))
        for (long r = 0; r < rows; r++)
            for (long j = 0; j < J; j++) to[wide(L, k) ? r * J + j : j * stride(L, k) + r] = from[(r * J + j) * V + v];
}

/* Floats of the tables of steps, a bit set in ``used`` for each number of bits. */
int64_t viterbi_room(int used, int L, int V) {
    int64_t floats = 0;
    for (int k = 0; k <= MOST_BITS; k++) floats += used >> k & 1 ? V * (stride(L, k) << k) : 0;
    return floats;
}

/* Those tables, one after the other, from ``table`` and ``idle``: (2^L, V). */
void viterbi_tables(int used, int L, int V, const float *table, const float *idle, float *to) {
    for (int k = 0; k <= MOST_BITS; k++)
        if (used >> k & 1) {
            turn(L, V, k, k ? table : idle, to);
            to += V * (stride(L, k) << k);
        }
}

/* Cheapest paths of sequences ``start`` to ``stop`` of x: (S, T, V), w: (S, T) or NULL, through ``count`` steps from
 * step ``from`` on, round the wrap. ``begin`` and ``end``: (S,), the low bits before the first step and behind the last
 * one, or NULL where any may be. Into states: (S, count - kept), those of the ``kept``-th step and after. ``tables``:
 * of ``viterbi_tables``. Returns 1 where there is no memory. */
int viterbi(const float *x, const float *w, const uint8_t *steps, const float *tables, int L, int V, int64_t T,
            int64_t from, int64_t count, int64_t kept, const int32_t *begin, const int32_t *end, int64_t start,
            int64_t stop, int32_t *states) {
    trellis a = {L, V, w != NULL, T, 0, x, w, steps, {0}};
    const int group = L > 12 ? GROUP : 1;
    long most = 0, used = 0; /* minima between two steps; which tables */
    for (long t = 0; t < T; t++) {
        const long minima = 1L << (L - steps[t]), size = ((1L << log_bytes(L, steps[t])) + 63) & -64;
        most = minima > most ? minima : most;
        a.size = size > a.size ? size : a.size;
        used |= 1L << steps[t];
    }
    for (int k = 0; k <= MOST_BITS; k++)
        if (used >> k & 1) {
            a.table[k] = tables;
            tables += V * (stride(L, k) << k);
        }
    const size_t room = 2 * group * most * sizeof(float), ways = (count - kept) * a.size;
    char *const memory = aligned_alloc(64, (room + group * ways + 63) & -64);
    if (!memory) return 1;
    const long last = (from + count - 1) % T;
    const long before = 1L << (L - steps[from]), behind = 1L << (L - steps[(last + 1) % T]);
    for (int64_t first = start; first < stop; first += group) {
        const int n = stop - first < group ? stop - first : group;
        work of[GROUP];
        for (int i = 0; i < n; i++) {
            key_t *const m = (key_t *)memory + 2 * i * most;
            of[i] = (work){m, m + most, (uint8_t *)memory + room + i * ways};
            for (long q = 0; q < before; q++) ((float *)m)[q] = !begin || q == begin[first + i] ? 0 : FAR;
        }
        walk(&a, first, n, of, from, count, kept);
        for (int i = 0; i < n; i++) {
            const long p = end ? end[first + i] : cheapest(of[i].m, behind);
            trace(&a, of + i, last, count - kept, p, states + (first + i) * (count - kept));
        }
    }
    free(memory);
    return 0;
}
