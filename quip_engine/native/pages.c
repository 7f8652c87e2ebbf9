/* Memory that is large and new: 4 KB at a time, its first touch would take longer than to unpack a layer into it. */

#include <stdint.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

void large_pages(void *start, int64_t bytes)
{
#ifdef MADV_HUGEPAGE
    uintptr_t first = ((uintptr_t)start + 4095) & ~(uintptr_t)4095;
    madvise((void *)first, (uintptr_t)start + bytes - first, MADV_HUGEPAGE); /* a wish: where it fails nothing changes */
#else
    (void)start, (void)bytes;
#endif
}
