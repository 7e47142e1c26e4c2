//! Memory for weights: buffers that share huge pages.
//!
//! Weights are read from end to end for every token. With small pages, address translation and the hardware
//! prefetcher, which stops at the end of a page, cost up to half of the bandwidth. A buffer of a few MiB on its own
//! rarely contains an aligned huge page, so buffers are cut from large regions, one after another.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Size and alignment of a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// Address space of a region. Pages that are never touched cost nothing.
const REGION: usize = 256 << 20;
/// Smaller buffers are left to the heap.
const LEAST: usize = 64 << 10;
/// Buffers start at a cache line.
const LINE: usize = 64;

/// A vector of fixed capacity on huge pages, where the system has them.
///
/// Memory returns to the system when all buffers of a region are gone: meant for things that live and die together,
/// such as the weights of a model.
pub struct HugeVec<T: Copy> {
    start: NonNull<T>,
    len: usize,
    capacity: usize,
    /// Keeps the memory.
    _region: Arc<Region>,
    owns: PhantomData<T>,
}

// SAFETY: the vector owns its part of the region, as `Vec` owns its allocation; regions themselves are only kept.
unsafe impl<T: Copy + Send> Send for HugeVec<T> {}
// SAFETY: as above.
unsafe impl<T: Copy + Sync> Sync for HugeVec<T> {}

impl<T: Copy> HugeVec<T> {
    /// An empty vector with room for `capacity` values.
    ///
    /// # Panics
    /// If the bytes do not fit the address space.
    pub fn with_capacity(capacity: usize) -> HugeVec<T> {
        const { assert!(align_of::<T>() <= LINE) };
        let layout = Layout::array::<T>(capacity).expect("the capacity fits the address space");
        let (region, offset) = take(layout.size());
        // SAFETY: `take` gave `offset..offset + size` of the region, inside its allocation.
        let start = unsafe { region.base.add(offset) }.cast();
        HugeVec {
            start,
            len: 0,
            capacity,
            _region: region,
            owns: PhantomData,
        }
    }

    /// Appends copies of `value`.
    ///
    /// # Panics
    /// If they exceed the capacity.
    pub fn extend_with(&mut self, count: usize, value: T) {
        assert!(
            count <= self.capacity - self.len,
            "{count} more values in a vector of capacity {}",
            self.capacity
        );
        for i in self.len..self.len + count {
            // SAFETY: `i` is below the capacity (asserted), so this is the vector's own memory; `start` is aligned
            // to a cache line and T to no more.
            unsafe { self.start.add(i).write(value) };
        }
        self.len += count;
    }
}

impl<T: Copy> Deref for HugeVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` values were written by `extend_with`, and the borrow is the vector's.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for HugeVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; no other vector was given this part of the region.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> std::fmt::Debug for HugeVec<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HugeVec")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// An allocation that buffers are cut from.
struct Region {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a region is only an owned address; what lies there belongs to the vectors.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn new(layout: Layout) -> Region {
        // SAFETY: callers ask for at least one byte.
        let base = unsafe { alloc(layout) };
        let Some(base) = NonNull::new(base) else {
            handle_alloc_error(layout)
        };
        Region { base, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the last vector that used it is gone.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// The region that buffers are being cut from, and how much of it is taken.
static CURRENT: Mutex<(Weak<Region>, usize)> = Mutex::new((Weak::new(), 0));

/// `bytes` of a region for the caller alone: the region and the offset, a multiple of a cache line.
fn take(bytes: usize) -> (Arc<Region>, usize) {
    let layout = |bytes: usize, align| {
        Layout::from_size_align(bytes, align).expect("the bytes fit the address space")
    };
    // Elsewhere than on Linux, memory that is only reserved may count as used.
    if bytes < LEAST || !cfg!(target_os = "linux") {
        return (Arc::new(Region::new(layout(bytes.max(1), LINE))), 0);
    }
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(region) = current.0.upgrade() {
        let offset = current.1.next_multiple_of(LINE);
        if bytes <= region.layout.size() - offset {
            current.1 = offset + bytes;
            return (region, offset);
        }
    }
    let region = Arc::new(Region::new(layout(bytes.max(REGION), HUGE_PAGE)));
    prefer_huge_pages(&region);
    // Of two regions with room, the one with more is worth keeping.
    if current.0.strong_count() == 0
        || region.layout.size() - bytes > REGION.saturating_sub(current.1)
    {
        *current = (Arc::downgrade(&region), bytes);
    }
    (region, 0)
}

fn prefer_huge_pages(region: &Region) {
    #[cfg(target_os = "linux")]
    // SAFETY: whole pages of an allocation nobody uses yet; the advice does not change contents. A refusal (a
    // kernel without huge pages) is harmless.
    unsafe {
        libc::madvise(
            region.base.as_ptr().cast(),
            region.layout.size() / HUGE_PAGE * HUGE_PAGE,
            libc::MADV_HUGEPAGE,
        );
    }
    #[cfg(not(target_os = "linux"))]
    let _ = region;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_disjoint_and_aligned() {
        let sizes = [
            0,
            1,
            LEAST / 4,
            LEAST,
            1 << 20,
            3,
            9 << 20,
            70 << 20,
            1 << 20,
        ];
        let mut vectors: Vec<HugeVec<u32>> = sizes.map(HugeVec::with_capacity).into();
        for (i, (vector, size)) in vectors.iter_mut().zip(sizes).enumerate() {
            vector.extend_with(size / 2, i as u32);
            vector.extend_with(size - size / 2, i as u32);
            assert_eq!(vector.as_ptr().addr() % LINE, 0);
        }
        for (i, (vector, size)) in vectors.iter().zip(sizes).enumerate() {
            assert_eq!(vector.len(), size);
            assert!(
                vector.iter().all(|&v| v == i as u32),
                "vector {i} was overwritten"
            );
        }
    }

    #[test]
    fn memory_outlives_its_neighbours() {
        let fill = |value: u8| {
            let mut vector = HugeVec::with_capacity(1 << 20);
            vector.extend_with(1 << 20, value);
            vector
        };
        let (first, second) = (fill(1), fill(2));
        drop(first);
        let third = fill(3);
        std::thread::spawn(move || drop(third))
            .join()
            .expect("the thread does not panic");
        assert!(second.iter().all(|&v| v == 2));
    }

    #[test]
    #[should_panic(expected = "3 more values in a vector of capacity 4")]
    fn capacity_is_fixed() {
        let mut vector = HugeVec::with_capacity(4);
        vector.extend_with(2, 0_u8);
        vector.extend_with(3, 0);
    }
}
