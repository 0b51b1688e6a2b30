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

/// Values of some earlier use; goes back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` values, of any content.
    pub(crate) fn take(len: usize) -> Self {
        if len < SMALLEST {
            return Self(vec![0.0; len]);
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
        Self(buffer)
    }

    /// `len` zeros, and no room for more.
    pub(crate) fn zeros(len: usize) -> Self {
        Self(vec![0.0; len])
    }

    /// Becomes `len` values, of any content.
    pub(crate) fn resize(&mut self, len: usize) {
        if len <= self.0.capacity() {
            self.0.resize(len, 0.0);
        } else {
            *self = Self::take(len);
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let capacity = self.0.capacity();
        if capacity < SMALLEST {
            return;
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.1 + capacity <= MOST_IDLE {
            idle.1 += capacity;
            idle.0.push(std::mem::take(&mut self.0));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
