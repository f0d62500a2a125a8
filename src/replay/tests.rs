//! A stream that the test feeds, and attempts that are polled by hand.

use std::{
    cell::Cell,
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::Frame;

use super::*;

/// A caller's stream that the test feeds.
#[derive(Clone, Default)]
struct Stream {
    parts: Rc<RefCell<VecDeque<Option<&'static str>>>>,
    length: Rc<Cell<Option<u64>>>,
}

impl Stream {
    fn of(parts: &[&'static str]) -> Self {
        let stream = Self::default();
        parts.iter().for_each(|part| stream.feed(part));
        stream
    }

    fn feed(&self, part: &'static str) {
        self.parts.borrow_mut().push_back(Some(part));
    }

    fn end(&self) {
        self.parts.borrow_mut().push_back(None);
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.parts.borrow_mut().pop_front() {
            None => Poll::Pending,
            Some(None) => Poll::Ready(None),
            Some(Some(part)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(part.as_bytes()))))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.get().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What `attempt` gives until it has to wait; `.` at its end, `!` when it was given up.
fn drain(attempt: &mut Attempt<Stream>) -> String {
    let mut cx = Context::from_waker(Waker::noop());
    let mut out = String::new();
    loop {
        match Pin::new(&mut *attempt).poll_frame(&mut cx) {
            Poll::Pending => return out,
            Poll::Ready(None) => return out + ".",
            Poll::Ready(Some(Err(_))) => return out + "!",
            Poll::Ready(Some(Ok(frame))) => {
                out += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
            }
        }
    }
}

fn recorder(stream: &Stream, limit: usize) -> (Recorder<Stream>, Arc<Budget>) {
    let budget = Budget::new(10_000);
    (Recorder::new(stream.clone(), limit, u64::MAX, &budget), budget)
}

#[test]
fn a_second_attempt_gets_the_recorded_prefix_and_then_the_rest_of_the_stream() {
    let stream = Stream::of(&["one ", "two "]);
    let (recorder, _) = recorder(&stream, 100);
    let mut first = recorder.attempt();
    assert_eq!(drain(&mut first), "one two ");
    let mut second = recorder.attempt();
    stream.feed("three");
    stream.end();
    assert_eq!(drain(&mut first), "", "a parked attempt must not take from the stream");
    assert_eq!(drain(&mut second), "one two three.");
}

#[test]
fn the_limit_is_exact_and_passing_it_frees_what_was_recorded() {
    let stream = Stream::of(&["12345", "67890"]);
    let (recorder, budget) = recorder(&stream, 10);
    let mut first = recorder.attempt();
    assert_eq!(drain(&mut first), "1234567890");
    assert_eq!(recorder.is_replayable(), Ok(()));
    assert_eq!(budget.used_bytes(), 10 + 2 * FRAME_OVERHEAD);
    stream.feed("1");
    stream.end();
    assert_eq!(drain(&mut first), "1.");
    assert_eq!(recorder.is_replayable(), Err(NotReplayable::OverLimit));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_body_known_to_be_too_long_is_not_recorded_at_all() {
    let stream = Stream::of(&["12345"]);
    stream.length.set(Some(11));
    let (recorder, budget) = recorder(&stream, 10);
    assert!(!recorder.is_recording());
    assert_eq!(recorder.is_replayable(), Ok(()), "nothing of it has been sent");
    assert_eq!(drain(&mut recorder.attempt()), "12345");
    assert_eq!(recorder.is_replayable(), Err(NotReplayable::OverLimit));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_limit_of_zero_turns_recording_off() {
    let (recorder, _) = recorder(&Stream::of(&["1"]), 0);
    assert_eq!(drain(&mut recorder.attempt()), "1");
    assert_eq!(recorder.is_replayable(), Err(NotReplayable::Off));
}

#[test]
fn a_body_that_turns_out_longer_than_it_may_be_breaks_off() {
    let recorder = Recorder::new(Stream::of(&["12345", "6"]), 100, 5, &Budget::new(10_000));
    let mut attempt = recorder.attempt();
    assert_eq!(drain(&mut attempt), "12345!");
    assert_eq!(recorder.is_replayable(), Err(NotReplayable::Broken));
}

#[test]
fn a_spent_budget_stops_recording_and_loses_nothing_of_the_stream() {
    let stream = Stream::of(&["1", "2"]);
    stream.end();
    let budget = Budget::new(FRAME_OVERHEAD + 1);
    let recorder = Recorder::new(stream, 100, u64::MAX, &budget);
    assert_eq!(drain(&mut recorder.attempt()), "12.");
    assert_eq!(recorder.is_replayable(), Err(NotReplayable::BudgetSpent));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn memory_goes_when_the_request_is_settled_and_when_it_is_dropped() {
    let stream = Stream::of(&["1", "2"]);
    let (recorder, budget) = recorder(&stream, 100);
    let mut first = recorder.attempt();
    drain(&mut first);
    let mut second = recorder.attempt();
    recorder.settle();
    assert_eq!(drain(&mut first), "!", "an attempt that was replaced ends with an error");
    stream.feed("3");
    assert_eq!(drain(&mut second), "123");
    assert_eq!(budget.used_bytes(), 0, "nothing is kept once it was sent");
    drop((first, second, recorder));

    let (recorder, budget) = self::recorder(&Stream::of(&["1"]), 100);
    let mut only = recorder.attempt();
    drain(&mut only);
    assert!(budget.used_bytes() > 0);
    drop((only, recorder));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn when_the_second_attempt_fails_the_first_goes_on_where_it_was() {
    let stream = Stream::of(&["1", "2"]);
    let (recorder, _) = recorder(&stream, 100);
    let mut first = recorder.attempt();
    drain(&mut first);
    let parked = recorder.park();
    let mut second = recorder.attempt();
    stream.feed("3");
    assert_eq!(drain(&mut first), "", "a parked attempt takes nothing");
    assert_eq!(drain(&mut second), "123");
    drop(second);
    recorder.resume(parked);
    stream.feed("4");
    stream.end();
    assert_eq!(drain(&mut first), "34.");
}

#[test]
fn every_attempt_announces_the_whole_length() {
    let stream = Stream::of(&["12345"]);
    stream.length.set(Some(5));
    let (recorder, _) = recorder(&stream, 100);
    let mut first = recorder.attempt();
    drain(&mut first);
    assert_eq!(recorder.attempt().size_hint().exact(), Some(5));
}

#[tokio::test]
async fn a_parked_attempt_is_woken_when_it_is_given_up() {
    let stream = Stream::of(&["1"]);
    let (recorder, _) = recorder(&stream, 100);
    let mut first = recorder.attempt();
    drain(&mut first);
    let _second = recorder.attempt();
    let waiting = poll_fn(|cx| Pin::new(&mut first).poll_frame(cx));
    let (frame, ()) = tokio::join!(waiting, async { recorder.settle() });
    assert!(matches!(frame, Some(Err(AttemptError::Abandoned))));
}

/// Its waker was known to the source only, which remembers the last attempt's alone.
#[tokio::test]
async fn an_attempt_that_was_parked_while_it_waited_for_the_caller_is_woken() {
    for is_resumed in [true, false] {
        let stream = Stream::of(&["1"]);
        let (recorder, _) = recorder(&stream, 100);
        let mut first = recorder.attempt();
        let polls = Cell::new(0);
        let uploading = poll_fn(|cx| {
            polls.set(polls.get() + 1);
            loop {
                match std::task::ready!(Pin::new(&mut first).poll_frame(cx)) {
                    Some(Ok(_)) => {}
                    end => return Poll::Ready(end),
                }
            }
        });
        let deciding = async {
            let parked = recorder.park();
            let mut second = recorder.attempt();
            assert_eq!(drain(&mut second), "1");
            assert_eq!(polls.get(), 1, "nothing makes the first attempt look again");
            if is_resumed {
                stream.end();
                recorder.resume(parked);
            } else {
                recorder.settle();
            }
        };
        let (end, ()) = tokio::join!(uploading, deciding);
        assert_eq!(end.is_none(), is_resumed);
    }
}

#[tokio::test]
async fn an_attempt_that_is_parked_when_the_caller_hangs_up_ends() {
    let stream = Stream::of(&["1"]);
    let (recorder, _) = recorder(&stream, 100);
    let mut first = recorder.attempt();
    drain(&mut first);
    let _parked = recorder.park();
    let waiting = poll_fn(|cx| Pin::new(&mut first).poll_frame(cx));
    let (frame, ()) = tokio::join!(waiting, async { drop(recorder) });
    assert!(matches!(frame, Some(Err(AttemptError::Abandoned))));
}

#[test]
fn the_only_attempt_goes_on_when_the_request_is_over() {
    let stream = Stream::of(&["1"]);
    let (recorder, budget) = recorder(&stream, 100);
    let mut only = recorder.attempt();
    assert_eq!(drain(&mut only), "1");
    drop(recorder);
    stream.feed("2");
    stream.end();
    assert_eq!(drain(&mut only), "2.");
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_resumed_attempt_whose_body_would_have_a_hole_waits_until_nobody_is_left() {
    let stream = Stream::of(&["12345"]);
    let (recorder, _) = recorder(&stream, 10);
    let mut first = recorder.attempt();
    assert_eq!(drain(&mut first), "12345");
    let parked = recorder.park();
    let mut second = recorder.attempt();
    stream.feed("678901");
    assert_eq!(drain(&mut second), "12345678901", "over the limit: not kept");
    recorder.resume(parked);
    stream.feed("23");
    stream.end();
    assert_eq!(drain(&mut first), "", "the answer to it may be on its way");
    drop(recorder);
    assert_eq!(drain(&mut first), "!");
}

#[test]
fn two_attempts_that_wait_are_both_ended_when_a_third_takes_over() {
    let stream = Stream::of(&["1"]);
    let (recorder, _) = recorder(&stream, 100);
    let mut attempts = [(); 3].map(|()| recorder.attempt());
    assert_eq!(attempts.each_mut().map(drain), ["", "", "1"]);
    assert_eq!(recorder.tape.borrow().waiting.len(), 3, "each has a waker of its own");
    recorder.settle();
    assert_eq!(attempts.each_mut().map(drain), ["!", "!", ""]);
}

#[test]
fn a_body_is_sent_when_the_current_attempt_and_not_only_an_earlier_one_was_given_all_of_it() {
    let stream = Stream::of(&["1", "2"]);
    stream.end();
    let (recorder, _) = recorder(&stream, 100);
    let mut first = recorder.attempt();
    assert_eq!(drain(&mut first), "12.");
    assert!(recorder.is_sent());
    let parked = recorder.park();
    let mut second = recorder.attempt();
    assert!(!recorder.is_sent(), "the second attempt has not sent it");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut second).poll_frame(&mut cx).is_ready());
    assert!(!recorder.is_sent());
    drain(&mut second);
    assert!(recorder.is_sent());
    recorder.resume(parked);
    assert!(recorder.is_sent(), "and so has the first");
}

/// A caller's stream that breaks off.
struct Breaking(u8);

impl Body for Breaking {
    type Data = Bytes;
    type Error = ();

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        self.0 += 1;
        Poll::Ready(match self.0 {
            1 => Some(Ok(Frame::data(Bytes::from_static(b"1")))),
            2 => Some(Err(())),
            _ => None,
        })
    }
}

#[test]
fn a_body_that_broke_off_never_ends_as_if_it_were_whole() {
    let recorder = Recorder::new(Breaking(0), 100, u64::MAX, &Budget::new(10_000));
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = recorder.attempt();
    assert!(matches!(Pin::new(&mut first).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
    let parked = recorder.park();
    let mut second = recorder.attempt();
    assert!(matches!(Pin::new(&mut second).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(Pin::new(&mut second).poll_frame(&mut cx), Poll::Ready(Some(Err(_)))));
    recorder.resume(parked);
    assert!(matches!(Pin::new(&mut first).poll_frame(&mut cx), Poll::Ready(Some(Err(_)))));
}

/// It kept the whole buffer that it had been read into.
#[test]
fn a_short_frame_is_kept_without_the_buffer_that_it_came_in() {
    let read = Bytes::from(vec![b'x'; 8192]);
    let places = read.as_ptr_range();
    let budget = Budget::new(100_000);
    for (length, is_shared) in [(1, false), (SHARED_BYTES_MIN - 1, false), (SHARED_BYTES_MIN, true)] {
        let source = http_body_util::Full::new(read.slice(..length));
        let recorder = Recorder::new(source, 10_000, u64::MAX, &budget);
        let mut attempt = recorder.attempt();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut attempt).poll_frame(&mut cx).is_ready());
        let kept = recorder.tape.borrow().frames[0].clone();
        assert_eq!((kept.len(), places.contains(&kept.as_ptr())), (length, is_shared));
    }
}

/// Who sends a body does not ask behind its end, so nobody came to erase it.
#[test]
fn memory_goes_with_the_last_recorded_frame_of_a_settled_attempt() {
    let stream = Stream::of(&["1", "2"]);
    stream.end();
    let (recorder, budget) = recorder(&stream, 100);
    drain(&mut recorder.attempt());
    let mut second = recorder.attempt();
    recorder.settle();
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        assert!(budget.used_bytes() > 0);
        assert!(Pin::new(&mut second).poll_frame(&mut cx).is_ready());
    }
    assert!(second.is_end_stream());
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_body_that_is_known_to_be_empty_is_sent_without_being_asked_for() {
    let stream = Stream::default();
    stream.end();
    let (recorder, _) = recorder(&stream, 100);
    drain(&mut recorder.attempt());
    assert!(recorder.attempt().is_end_stream());
    assert!(recorder.is_sent());
}
