//! Requests that leave together.
//!
//! Reading a request and sending it on go through different parts of the system. Where many requests come at once,
//! first all of them are read and then all of them are sent: either part finds its code and its data in the processor's
//! caches, and the system takes a tenth less time.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use tokio::task::coop;

/// A connection with a request to send.
pub(super) trait Depart {
    /// Sends what it can.
    fn depart(&self);

    /// Its code has panicked.
    fn abandon(&self);
}

/// The requests of one worker that are about to leave.
#[derive(Default)]
pub(super) struct Departures {
    waiting: RefCell<Vec<Rc<dyn Depart>>>,
    /// Sends them, behind everything that is ready now.
    task: Cell<Option<Waker>>,
    has_task: Cell<bool>,
}

impl Departures {
    /// `next` is sent behind everything that is ready now.
    pub(super) fn add(self: &Rc<Self>, next: Rc<dyn Depart>) {
        self.waiting.borrow_mut().push(next);
        if let Some(task) = self.task.take() {
            task.wake();
        } else if !self.has_task.replace(true) {
            let this = Rc::downgrade(self);
            // It does the work of many tasks, and may do as much as they might.
            tokio::task::spawn_local(coop::unconstrained(poll_fn(move |cx| poll(&this, cx))));
        }
    }

    fn send(&self) {
        let mut due = mem::take(&mut *self.waiting.borrow_mut());
        for connection in due.drain(..) {
            // Whoever wanted it may have gone.
            if Rc::strong_count(&connection) > 1 {
                let sent = catch_unwind(AssertUnwindSafe(|| connection.depart()));
                if sent.is_err() {
                    connection.abandon();
                }
            }
        }
        // Keeps the room, unless another has come.
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            *waiting = due;
        }
    }
}

/// Ends with the worker's pool.
fn poll(departures: &Weak<Departures>, cx: &Context<'_>) -> Poll<()> {
    let Some(departures) = departures.upgrade() else { return Poll::Ready(()) };
    departures.task.set(Some(cx.waker().clone()));
    departures.send();
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what happens to it.
    struct Known {
        name: &'static str,
        panics: bool,
        seen: Rc<RefCell<Vec<String>>>,
    }

    impl Depart for Known {
        fn depart(&self) {
            assert!(!self.panics, "canary");
            self.seen.borrow_mut().push(format!("{} departs", self.name));
        }

        fn abandon(&self) {
            self.seen.borrow_mut().push(format!("{} is abandoned", self.name));
        }
    }

    fn on_a_worker(
        test: impl AsyncFnOnce(&Rc<Departures>, &dyn Fn(&'static str, bool) -> Rc<Known>),
    ) -> Vec<String> {
        let seen = Rc::<RefCell<Vec<String>>>::default();
        let known = |name, panics| Rc::new(Known { name, panics, seen: Rc::clone(&seen) });
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(Default::default()).unwrap();
        runtime.block_on(test(&Rc::default(), &known));
        seen.take()
    }

    #[test]
    fn requests_leave_behind_everything_that_is_ready() {
        let seen = on_a_worker(async |departures, known| {
            for round in [["a", "b"], ["c", "d"]] {
                let all = round.map(|name| known(name, false));
                for connection in &all {
                    let (departures, connection) = (Rc::clone(departures), Rc::clone(connection));
                    tokio::task::spawn_local(async move {
                        connection.seen.borrow_mut().push(format!("{} is read", connection.name));
                        departures.add(connection);
                    });
                }
                while !all[1].seen.borrow().contains(&format!("{} departs", round[1])) {
                    tokio::task::yield_now().await;
                }
            }
        });
        let both = |a, b| {
            [format!("{a} is read"), format!("{b} is read"), format!("{a} departs"), format!("{b} departs")]
        };
        assert_eq!(seen, [both("a", "b"), both("c", "d")].concat());
    }

    #[test]
    fn a_panic_ends_one_request_and_who_has_gone_is_not_sent() {
        let seen = on_a_worker(async |departures, known| {
            let (broken, whole) = (known("broken", true), known("whole", false));
            departures.add(known("gone", false));
            departures.add(Rc::clone(&broken) as Rc<dyn Depart>);
            departures.add(Rc::clone(&whole) as Rc<dyn Depart>);
            while whole.seen.borrow().len() < 2 {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(seen, ["broken is abandoned", "whole departs"]);
    }
}
