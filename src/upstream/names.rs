//! The addresses behind names.
//!
//! A name is asked for anew for each connection, and nothing is remembered. But it is asked for once at a time: the
//! system's resolver holds a thread until it has an answer, and one name that hangs must not take the threads of all.

use std::{
    cell::{OnceCell, RefCell},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use rustc_hash::FxHashMap;
use tokio::{net::lookup_host, sync::watch};

/// Addresses without a port, or why there are none.
type Outcome = Result<Vec<SocketAddr>, Rc<io::Error>>;

/// The names that one worker is asking for.
#[derive(Default)]
pub(super) struct Names {
    asked: Rc<RefCell<FxHashMap<String, Asked>>>,
}

/// A question on its way. All who wait get its outcome.
#[derive(Clone)]
struct Asked {
    outcome: Rc<OnceCell<Outcome>>,
    ended: watch::Receiver<()>,
}

/// The other side of it. Dropping it ends the wait.
struct Question {
    names: Rc<RefCell<FxHashMap<String, Asked>>>,
    host: String,
    outcome: Rc<OnceCell<Outcome>>,
    _ended: watch::Sender<()>,
}

impl Names {
    /// The addresses of `host` now. An address is its own and needs no asking.
    ///
    /// # Errors
    /// The resolver's, which all who waited for it share.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> Outcome {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let name = host.to_owned();
        let asking = || async move { lookup_host((name.as_str(), 0)).await.map(Iterator::collect) };
        let mut found = self.ask(host, asking).await?;
        found.iter_mut().for_each(|address| address.set_port(port));
        Ok(found)
    }

    /// The outcome of `asking`, or of the question for this name that is on its way already. It goes on when
    /// somebody leaves who waits.
    async fn ask<F>(&self, host: &str, asking: impl FnOnce() -> F) -> Outcome
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + 'static,
    {
        let known = self.asked.borrow().get(host).cloned();
        let mut asked = known.unwrap_or_else(|| self.begin(host, asking()));
        // Nothing is ever sent: an error says that the other side is gone.
        let _ = asked.ended.changed().await;
        let gone = || Err(Rc::new(io::Error::other("the name was not looked up to the end")));
        asked.outcome.get().cloned().unwrap_or_else(gone)
    }

    fn begin(
        &self,
        host: &str,
        asking: impl Future<Output = io::Result<Vec<SocketAddr>>> + 'static,
    ) -> Asked {
        let (sender, ended) = watch::channel(());
        let asked = Asked { outcome: Rc::default(), ended };
        self.asked.borrow_mut().insert(host.to_owned(), asked.clone());
        let question = Question {
            names: Rc::clone(&self.asked),
            host: host.to_owned(),
            outcome: Rc::clone(&asked.outcome),
            _ended: sender,
        };
        // Ends with the resolver's answer, or with the worker.
        tokio::task::spawn_local(async move {
            let _ = question.outcome.set(asking.await.map_err(Rc::new));
        });
        asked
    }
}

impl Drop for Question {
    /// Whoever comes from here on asks anew.
    fn drop(&mut self) {
        self.names.borrow_mut().remove(&self.host);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, pin::pin};

    use futures_util::poll;
    use tokio::sync::Notify;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(Default::default()).unwrap();
        runtime.block_on(test);
    }

    /// A resolver that counts who asks, and answers when it is let.
    #[derive(Clone, Default)]
    struct Resolver {
        asked: Rc<Cell<u16>>,
        lets: Rc<Notify>,
    }

    impl Resolver {
        async fn answer(self) -> io::Result<Vec<SocketAddr>> {
            self.asked.set(self.asked.get() + 1);
            let number = self.asked.get();
            self.lets.notified().await;
            if number == 3 {
                Err(io::ErrorKind::NotFound.into())
            } else {
                Ok(vec![([127, 0, 0, 1], number).into()])
            }
        }
    }

    /// A hundred connections to a name that hung used to take a hundred threads.
    #[test]
    fn a_name_is_asked_for_once_at_a_time_and_again_afterwards() {
        run(async {
            let (names, resolver) = (Names::default(), Resolver::default());
            let ask = |host| names.ask(host, || resolver.clone().answer());
            for round in 1..3 {
                let (mut first, mut second) = (pin!(ask("a.example")), pin!(ask("a.example")));
                assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
                tokio::task::yield_now().await;
                assert_eq!(resolver.asked.get(), round);
                resolver.lets.notify_one();
                let expected = vec![SocketAddr::from(([127, 0, 0, 1], round))];
                assert_eq!((first.await.unwrap(), second.await.unwrap()), (expected.clone(), expected));
            }
            resolver.lets.notify_one();
            assert_eq!(ask("a.example").await.unwrap_err().kind(), io::ErrorKind::NotFound);
        });
    }

    #[test]
    fn a_question_goes_on_when_the_first_one_who_asked_leaves() {
        run(async {
            let (names, resolver) = (Names::default(), Resolver::default());
            let ask = |host| names.ask(host, || resolver.clone().answer());
            let mut second = pin!(ask("a.example"));
            {
                let mut first = pin!(ask("a.example"));
                assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
            }
            let mut other = pin!(ask("b.example"));
            assert!(poll!(other.as_mut()).is_pending());
            tokio::task::yield_now().await;
            assert_eq!(resolver.asked.get(), 2, "one for each name");
            resolver.lets.notify_waiters();
            assert!(second.await.is_ok() && other.await.is_ok());
            assert!(names.asked.borrow().is_empty(), "nothing is remembered");
        });
    }

    /// Without a runtime whose threads could be taken.
    #[test]
    fn an_address_needs_no_asking() {
        for (host, expected) in [("192.0.2.1", "192.0.2.1:8443"), ("2001:db8::1", "[2001:db8::1]:8443")] {
            let names = Names::default();
            let mut found = pin!(names.addresses(host, 8443));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            let std::task::Poll::Ready(found) = found.as_mut().poll(&mut cx) else {
                panic!("{host} is asked for")
            };
            assert_eq!(found.unwrap(), [expected.parse().unwrap()]);
        }
    }
}
