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
    use super::*;

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
}
