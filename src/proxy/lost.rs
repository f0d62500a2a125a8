//! The id of a request whose record ended in a panic, for the answer that its caller gets.

use std::cell::Cell;

use http::HeaderValue;

thread_local! {
    static LOST: Cell<Option<HeaderValue>> = const { Cell::new(None) };
}

/// A request's record ends while its code panics.
pub(super) fn leave(request_id: HeaderValue) {
    // A thread that ends has nobody left to answer.
    let _ = LOST.try_with(|lost| lost.set(Some(request_id)));
}

/// The request that has just panicked, if it had a record.
pub(super) fn take() -> Option<HeaderValue> {
    LOST.take()
}
