//! Tells a task of news on a connection, but not of what the task does there itself.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Wake, Waker},
};

/// Somebody is looking at the connection, or nobody cares.
const QUIET: u8 = 0;
/// There is news that nobody has looked at.
const RUNG: u8 = 1;
/// A task sleeps until there is news.
const AWAITED: u8 = 2;

/// A bell at a connection. As a waker it can be rung from anywhere.
#[derive(Default)]
pub(super) struct Bell {
    state: AtomicU8,
    sleeper: Mutex<Option<Waker>>,
}

impl Bell {
    /// From now on nobody sleeps. News is remembered.
    pub(super) fn mute(&self) {
        let _ = self.state.compare_exchange(AWAITED, QUIET, Ordering::AcqRel, Ordering::Acquire);
    }

    /// All news up to here is about to be looked at.
    pub(super) fn clear(&self) {
        self.state.store(QUIET, Ordering::Release);
    }

    /// Whether there is news.
    pub(super) fn has_rung(&self) -> bool {
        self.state.load(Ordering::Acquire) == RUNG
    }

    /// Wakes `sleeper` at the next news, or at once when there is some.
    pub(super) fn call(&self, sleeper: &Waker) {
        let mut known = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(sleeper)) {
            *known = Some(sleeper.clone());
        }
        drop(known);
        if self.state.compare_exchange(QUIET, AWAITED, Ordering::AcqRel, Ordering::Acquire) == Err(RUNG) {
            sleeper.wake_by_ref();
        }
    }

    /// Whoever sleeps sleeps on, now that somebody else has looked; there may have been news meanwhile.
    pub(super) fn call_again(&self) {
        if self.state.compare_exchange(QUIET, AWAITED, Ordering::AcqRel, Ordering::Acquire) == Err(RUNG) {
            self.rouse();
        }
    }

    /// Nobody is to be woken any more; whoever was may be gone.
    pub(super) fn forget(&self) {
        self.mute();
        *self.sleeper.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Bell {
    fn rouse(&self) {
        let sleeper = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::AcqRel) == AWAITED {
            self.rouse();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn stage() -> (Arc<Bell>, Waker, Arc<Woken>) {
        let (bell, woken) = (Arc::new(Bell::default()), Arc::new(Woken::default()));
        (Arc::clone(&bell), Waker::from(bell), woken)
    }

    #[test]
    fn a_sleeper_is_woken_once_by_news() {
        let (bell, ring, woken) = stage();
        bell.call(&Waker::from(Arc::clone(&woken)));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        ring.wake_by_ref();
        ring.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn news_that_came_before_anybody_slept_is_not_lost() {
        let (bell, ring, woken) = stage();
        bell.clear();
        ring.wake_by_ref();
        assert!(bell.has_rung());
        bell.call(&Waker::from(Arc::clone(&woken)));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn nobody_is_woken_by_what_he_does_himself() {
        let (bell, ring, woken) = stage();
        bell.call(&Waker::from(Arc::clone(&woken)));
        bell.mute();
        ring.wake_by_ref();
        bell.clear();
        bell.call(&Waker::from(Arc::clone(&woken)));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_is_forgotten_is_not_kept() {
        let (bell, ring, woken) = stage();
        bell.call(&Waker::from(Arc::clone(&woken)));
        bell.forget();
        ring.wake_by_ref();
        assert_eq!((Arc::strong_count(&woken), woken.0.load(Ordering::Relaxed)), (1, 0));
        assert!(bell.has_rung());
    }
}
