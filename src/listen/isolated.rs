//! A request whose panic ends itself and nothing else.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;

use crate::proxy::answer::Answer;

/// A request that is being served. A panic in its own code, also in what it does at once, becomes an answer;
/// it must not be polled again then.
///
/// Boxed, so that a library moves a pointer and not everything that a request needs.
pub(super) struct Isolated<F> {
    /// `None` when it has failed before it could wait for anything.
    responding: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = Response<Answer>>> Isolated<F> {
    /// Begins to serve a request.
    pub(super) fn begin(begin: impl FnOnce() -> F) -> Self {
        Self { responding: catch_unwind(AssertUnwindSafe(|| Box::pin(begin()))).ok() }
    }
}

impl<F: Future<Output = Response<Answer>>> Future for Isolated<F> {
    type Output = Response<Answer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(responding) = &mut self.get_mut().responding else {
            return Poll::Ready(Answer::internal());
        };
        match catch_unwind(AssertUnwindSafe(|| responding.as_mut().poll(cx))) {
            Ok(answer) => answer,
            Err(_) => Poll::Ready(Answer::internal()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use http::Request;

    use super::*;
    use crate::{
        body::Received,
        caller::{Caller, Peer, TrustedProxies},
        fuzzing,
        proxy::{self, Held, Inbound, Interim, Line, tunnel::Tunnel},
    };

    fn assert_own_answer(answer: &Response<Answer>) {
        assert_eq!(answer.status(), 500);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }

    #[tokio::test]
    async fn a_panic_in_a_request_ends_in_an_answer_of_its_own() {
        assert_own_answer(&Isolated::begin(|| async { panic!("canary") }).await);
    }

    #[tokio::test]
    async fn a_panic_before_the_first_wait_ends_in_an_answer_of_its_own() {
        let begin = || -> std::future::Ready<Response<Answer>> { panic!("canary") };
        assert_own_answer(&Isolated::begin(begin).await);
    }

    /// A caller's side that fails as soon as it is asked for anything.
    struct Broken;

    impl Line for Broken {
        fn is_tls(&self) -> bool {
            panic!("canary")
        }

        fn is_misdirected(&self, _: &str) -> bool {
            panic!("canary")
        }

        fn inform(&self, _: &Interim) {}

        fn hand_over(&self, _: Tunnel) {}
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_told_under_the_id_that_its_caller_sees() {
        let worker = fuzzing::head::worker();
        let request = Request::get("/v1").header("host", "api.example").header("x-request-id", "canary-7");
        let inbound = Inbound {
            request: request.body(Received::Empty).unwrap(),
            refused: None,
            caller: Caller::new(Peer::Ip(([127, 0, 0, 1], 1).into()), &TrustedProxies::default()),
            line: Held::new(Rc::new(Broken)),
        };
        let answer = Isolated::begin(|| proxy::respond(Rc::clone(&worker), inbound)).await;
        assert_own_answer(&answer);
        assert_eq!(answer.headers()["x-request-id"], "canary-7");
        let told = worker.recent().since(0);
        let [told] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((told.code, told.request_id.as_str()), ("internal_error", "canary-7"));
        let again = Isolated::begin(|| async { panic!("canary") }).await;
        assert_ne!(again.headers()["x-request-id"], "canary-7");
    }
}
