//! Results that several threads write at the same time, each in places of its own.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Values, perhaps not written yet, of which each thread writes a part of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<'a> {
    start: *mut MaybeUninit<f32>,
    len: usize,
    life: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: places are handed out by an unsafe function only, whose callers see to it that no two threads have the same one.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Of values that are there already.
    pub(super) fn new(values: &'a mut [f32]) -> Self {
        Self { start: values.as_mut_ptr().cast(), len: values.len(), life: PhantomData }
    }

    /// `len` values that `write` writes; fresh memory is not zeroed first.
    ///
    /// # Safety
    /// `write` must write every place.
    pub(super) unsafe fn collect(len: usize, write: impl FnOnce(Shared)) -> Vec<f32> {
        let mut values = Vec::with_capacity(len);
        let places = &mut values.spare_capacity_mut()[..len];
        write(Shared { start: places.as_mut_ptr(), len, life: PhantomData });
        // SAFETY: the capacity is at least `len`, and the caller has promised that all of them are written.
        unsafe { values.set_len(len) };
        values
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The `len` places from `from` on.
    ///
    /// # Safety
    /// Nobody else may have any of these places while the result lives.
    pub(super) unsafe fn part(&self, from: usize, len: usize) -> &'a mut [MaybeUninit<f32>] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "a part reaches beyond the result");
        // SAFETY: just checked; the caller has promised that it is the only one to have them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// Where values are; to be written without checks.
    pub(super) fn as_mut_ptr(&self) -> *mut f32 {
        self.start.cast()
    }
}
