//! Buffers that are used again: a step of training needs the same hundreds of megabytes as the step before, and fresh
//! memory costs a page fault every four kilobytes.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers that nobody uses, and their values in all.
static IDLE: Mutex<(Vec<Vec<f32>>, usize)> = Mutex::new((Vec::new(), 0));

/// Idle values that are kept (512 MiB); more are given back to the system.
const MOST_IDLE: usize = 1 << 27;

/// Below this many values the allocator keeps memory by itself.
const SMALLEST: usize = 1 << 11;

/// Values of some earlier use, which go back when dropped, or of one's own.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    values: Vec<f32>,
    /// Whether they were taken: others would only pile up, since nobody asks for them again.
    is_taken: bool,
}

impl Buffer {
    /// `len` values, of any content.
    pub(crate) fn take(len: usize) -> Self {
        if len < SMALLEST {
            return Self::zeros(len);
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let (buffers, values) = &mut *idle;
        // The tightest that fits: a large buffer must stay free for a large request.
        let fit = (0..buffers.len())
            .filter(|&index| (len..=4 * len).contains(&buffers[index].capacity()))
            .min_by_key(|&index| buffers[index].capacity());
        let mut buffer = fit.map_or_else(Vec::new, |index| buffers.swap_remove(index));
        *values -= buffer.capacity();
        drop(idle);
        buffer.resize(len, 0.0);
        Self { values: buffer, is_taken: true }
    }

    /// `len` zeros, and no room for more; they do not go back.
    pub(crate) fn zeros(len: usize) -> Self {
        Self { values: vec![0.0; len], is_taken: false }
    }

    /// Becomes `len` values, of any content.
    pub(crate) fn resize(&mut self, len: usize) {
        if len <= self.values.capacity() {
            self.values.resize(len, 0.0);
        } else {
            *self = Self::take(len);
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), is_taken: false }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let capacity = self.values.capacity();
        if !self.is_taken || capacity < SMALLEST {
            return;
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.1 + capacity <= MOST_IDLE {
            idle.1 += capacity;
            idle.0.push(std::mem::take(&mut self.values));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}
