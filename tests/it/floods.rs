//! Callers of HTTP/2 that want to cost as much as they can: each ends, or costs next to nothing.
//!
//! The gateway is a process of its own, so that what is measured is its own time and memory.

use std::{
    convert::Infallible,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::any};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::{
    counters::becomes,
    frames::{
        ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, GOAWAY, HEADERS, PING,
        PREFACE, PRIORITY, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, connect, connect_raw, field,
        frame, get, head, integer, nth, post, setting,
    },
    front::{Peer, played},
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually},
};

/// More than any honest caller sends without waiting for an answer.
const MANY: u32 = 20_000;
/// What a flood may cost that does not end its connection.
const CPU_MAX: Duration = Duration::from_millis(500);
/// What it may cost in memory, ended or not.
const MEMORY_MAX_KIB: usize = 10 * 1024;
/// How long anybody else may have to wait meanwhile. An honest wait is a few milliseconds; the rest is
/// for a machine that is busy with other tests.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A gateway to be flooded.
struct Target {
    stage: Stage,
    gateway: Process,
}

impl Target {
    async fn start(more: &str) -> Self {
        Self::with(Plan::default().more(&format!("workers: 1\n{more}"))).await
    }

    /// One whose `/held` goes to an upstream that answers nothing, and `/begun` to one that only begins to.
    async fn with_half_hearted_upstream() -> Self {
        let upstream = half_hearted().await;
        let routes = format!(
            "orders: {{match: {{path: /v1}}, upstream: \"{{api}}\", profile: account}}\n\
             short: {{match: {{path: /short}}, upstream: \"http://{upstream}\", profile: account, body_bytes: 10B}}\n\
             rest: {{upstream: \"http://{upstream}\", profile: account}}"
        );
        Self::with(Plan::default().more("workers: 1").routes(&routes)).await
    }

    async fn with(plan: Plan) -> Self {
        let stage = plan.start().await;
        let gateway = Process::start(&stage, &["--log-filter", "error,keybearer::cli=info"]).await;
        let target = Self { stage, gateway };
        // The first requests make what every gateway needs: connections, buffers, tables.
        for _ in 0..50 {
            assert!(target.is_serving().await);
        }
        target
    }

    async fn is_serving(&self) -> bool {
        let request = self.stage.http.get(self.gateway.url("/v1/orders")).send();
        request.await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Processor time that the gateway has used.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.gateway.id())).unwrap();
        // Behind the name, which may hold spaces: the 14th and 15th field, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Sends `first` and then `unit` of 0, 1, 2 … up to `count`, while somebody else is served.
    async fn flood(&self, name: &str, first: &[u8], count: u32, unit: impl Fn(u32) -> Vec<u8>) -> bool {
        let (cpu, memory) = (self.cpu(), self.gateway.peak_kib());
        let (mut reader, mut writer) = connect(self.gateway.address(), &[]).await;
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&ended);
        // Ends with the connection, or with the answer to the last ping.
        let reading = tokio::spawn(async move {
            let last =
                reader.find(|f| f.kind == GOAWAY || (f.kind == PING && f.payload == *b"the last")).await;
            let is_over = last.is_none_or(|frame| frame.kind == GOAWAY);
            has_ended.store(is_over, Ordering::SeqCst);
        });
        let sending = async {
            writer.send(first).await;
            for batch in (0..count).step_by(100) {
                let bytes: Vec<u8> = (batch..batch + 100).flat_map(&unit).collect();
                if ended.load(Ordering::SeqCst) || !writer.send(&bytes).await {
                    break;
                }
            }
            let asked = writer.send(&frame(PING, 0, 0, b"the last")).await;
            if !asked {
                ended.store(true, Ordering::SeqCst);
            }
            let _ = reading.await;
        };
        self.while_others_are_served(name, sending).await;
        let (cpu, memory) = (self.cpu() - cpu, self.gateway.peak_kib().saturating_sub(memory));
        let ended = ended.load(Ordering::SeqCst);
        println!("{name}: ended {ended}, {cpu:?} of the processor, {memory} KiB");
        assert!(ended || cpu < CPU_MAX, "{name} goes on and has cost {cpu:?}");
        assert!(memory < MEMORY_MAX_KIB, "{name} has cost {memory} KiB");
        ended
    }

    /// Opens twenty streams with `open`, waits for `signs` frames that say that they are being served, spoils
    /// each, and begins anew. How many were spoilt when the connection ended, if it did.
    async fn rhythm(
        &self,
        name: &str,
        open: impl Fn(u32) -> Vec<u8>,
        (kind, signs): (u8, u32),
        spoil: impl Fn(u32) -> Vec<u8>,
    ) -> Option<u32> {
        let (cpu, memory) = (self.cpu(), self.gateway.peak_kib());
        let mut ended = None;
        let beating = async {
            let (mut reader, mut writer) = connect(self.gateway.address(), &[]).await;
            'rounds: for round in (0..MANY).step_by(20) {
                let streams = (round..round + 20).map(nth);
                let opened: Vec<u8> = streams.clone().flat_map(&open).collect();
                writer.send(&[opened, frame(PING, 0, 0, &[1; 8])].concat()).await;
                for _ in 0..signs {
                    let sign = reader.find(|f| f.kind == GOAWAY || f.kind == kind).await;
                    if sign.is_none_or(|sign| sign.kind == GOAWAY) {
                        ended = Some(round);
                        break 'rounds;
                    }
                }
                let spoilt: Vec<u8> = streams.flat_map(&spoil).collect();
                writer.send(&spoilt).await;
            }
        };
        self.while_others_are_served(name, beating).await;
        let (cpu, memory) = (self.cpu() - cpu, self.gateway.peak_kib().saturating_sub(memory));
        println!("{name}: ended {ended:?}, {cpu:?} of the processor, {memory} KiB");
        assert!(memory < MEMORY_MAX_KIB, "{name} has cost {memory} KiB");
        ended
    }

    async fn while_others_are_served(&self, name: &str, doing: impl Future<Output = ()>) {
        let (is_done, mut longest) = (AtomicBool::new(false), Duration::ZERO);
        let others = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            while !is_done.load(Ordering::SeqCst) {
                ticks.tick().await;
                let begun = Instant::now();
                assert!(self.is_serving().await, "nobody else is served during {name}");
                longest = longest.max(begun.elapsed());
            }
        };
        let doing = async {
            doing.await;
            is_done.store(true, Ordering::SeqCst);
        };
        tokio::join!(doing, others);
        assert!(longest < WAIT_MAX, "somebody else had to wait {longest:?} during {name}");
    }
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// CVE-2023-44487: a request that is taken back at once, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset() {
    let target = Target::start("").await;
    let unit = |n| [get(nth(n), "/v1/orders"), reset(nth(n), CANCEL)].concat();
    assert!(target.flood("rapid reset", &[], MANY, unit).await, "it ends the connection");
    assert!(target.stage.api.requests() < 2_000, "{}", target.stage.api.requests());
}

/// The same a moment later: the requests have been passed on when they are taken back, and none of them is
/// open any more when the next ones come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_in_a_measured_rhythm() {
    let target = Target::with_half_hearted_upstream().await;
    let cancel = |stream| reset(stream, CANCEL);
    for (name, path, signs) in [
        ("requests that are taken back when they have been read", "/held", (PING, 1)),
        ("requests that are taken back when their answers have begun", "/begun", (HEADERS, 20)),
    ] {
        for (body, open) in [("", get as fn(u32, &str) -> Vec<u8>), (" with their bodies", post)] {
            let name = format!("{name}{body}");
            let ended = target.rhythm(&name, |stream| open(stream, path), signs, cancel).await;
            assert!(ended.is_some_and(|spoilt| spoilt < 2_000), "{name}: {ended:?}");
        }
    }
}

/// A browser that navigates away, calls whose deadlines pass while an upstream stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_requests_that_are_taken_back_are_no_flood() {
    let target = Target::with_half_hearted_upstream().await;
    let (mut reader, mut writer) = connect(target.gateway.address(), &[]).await;
    for round in 0..16 {
        let (first, last) = (51 * round, 51 * round + 50);
        let held: Vec<u8> = (first..last).flat_map(|n| get(nth(n), "/held")).collect();
        writer.send(&[held, get(nth(last), "/v1/orders")].concat()).await;
        let answer = reader.find(|f| f.kind == GOAWAY || f.stream == nth(last)).await;
        assert!(answer.is_some_and(|answer| answer.has_status(200)), "round {round}");
        let taken_back: Vec<u8> = (first..last).flat_map(|n| reset(nth(n), CANCEL)).collect();
        writer.send(&taken_back).await;
    }
    let last = nth(51 * 16);
    writer.send(&get(last, "/v1/orders")).await;
    let answer = reader.find(|f| f.kind == GOAWAY || f.stream == last).await;
    assert!(answer.is_some_and(|answer| answer.has_status(200)));
}

/// CVE-2025-8671: the same, but it is the gateway that is made to reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_you_reset() {
    let target = Target::start("").await;
    let no_window = |n| [post(nth(n), "/v1/orders"), window_update(nth(n), 0)].concat();
    assert!(target.flood("made you reset", &[], MANY, no_window).await, "it ends the connection");
    let too_much = |n| {
        let stream = nth(n);
        [post(stream, "/v1/orders"), window_update(stream, 0x7fff_ffff), window_update(stream, 0x7fff_ffff)]
            .concat()
    };
    assert!(target.flood("made you reset by windows", &[], MANY, too_much).await, "it ends the connection");
    let on_itself = |n| {
        let priority = [&nth(n).to_be_bytes()[..], &[16]].concat();
        [post(nth(n), "/v1/orders"), frame(PRIORITY, 0, nth(n), &priority)].concat()
    };
    assert!(
        target.flood("made you reset by priorities", &[], MANY, on_itself).await,
        "it ends the connection"
    );
}

/// All that a caller can do to a stream of its own, so that the library resets it while the request is being
/// served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_you_reset_in_a_measured_rhythm() {
    let target = Target::with_half_hearted_upstream().await;
    let open = |stream| {
        let fields = [head("POST", "/held"), field("content-length", "5")].concat();
        frame(HEADERS, END_HEADERS, stream, &fields)
    };
    type Spoil = fn(u32) -> Vec<u8>;
    let ways: [(&str, Spoil); 6] = [
        ("a window of nothing", |stream| window_update(stream, 0)),
        ("a window that overflows", |stream| window_update(stream, 0x7fff_ffff)),
        ("a stream behind itself", |stream| {
            frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[16]].concat())
        }),
        ("more than was announced", |stream| frame(DATA, 0, stream, b"sixsix")),
        ("less than was announced", |stream| frame(DATA, END_STREAM, stream, b"four")),
        ("trailers without an end", |stream| frame(HEADERS, END_HEADERS, stream, &field("x-a", "b"))),
    ];
    for (name, spoil) in ways {
        let ended = target.rhythm(name, open, (PING, 1), spoil).await;
        assert!(ended.is_some_and(|spoilt| spoilt < 2_000), "{name}: {ended:?}");
    }
}

/// Each costs a connection to the upstream and is over at once: the gateway answers, and resets the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_turn_out_too_long() {
    let target = Target::with_half_hearted_upstream().await;
    let too_long = |stream| {
        let room_for_the_answer = window_update(0, 1_000);
        [post(stream, "/short"), frame(DATA, 0, stream, &[b'x'; 20]), room_for_the_answer].concat()
    };
    let ended = target.rhythm("uploads that are too long", too_long, (RST_STREAM, 20), |_| Vec::new()).await;
    assert!(ended.is_some_and(|spoilt| (1_000..2_000).contains(&spoilt)), "{ended:?}");
}

/// A header block that never ends (CVE-2024-27316 and its kin).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuation_flood() {
    let target = Target::start("").await;
    let first = frame(HEADERS, END_STREAM, 1, &head("GET", "/v1/orders"));
    let full = |n| frame(CONTINUATION, 0, 1, &field(&format!("x-{n}"), &"x".repeat(1_000)));
    assert!(target.flood("continuations", &first, MANY, full).await, "it ends the connection");
    let empty = |_| frame(CONTINUATION, 0, 1, b"");
    assert!(target.flood("empty continuations", &first, MANY, empty).await, "it ends the connection");
}

/// Frames that carry nothing and have to be looked at all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_carry_nothing() {
    let target = Target::start("").await;
    let opened = post(1, "/v1/orders");
    type Unit = fn(u32) -> Vec<u8>;
    let floods: [(&str, &[u8], Unit); 10] = [
        ("empty DATA", &opened, |_| frame(DATA, 0, 1, b"")),
        // The first byte is the padding's length, and the padding is all the rest.
        ("DATA that is all padding", &opened, |_| frame(DATA, 8, 1, &[255; 256])),
        ("PING", &[], |n| frame(PING, 0, 0, &[&[0; 4][..], &n.to_be_bytes()].concat())),
        ("PING that was answered", &[], |_| frame(PING, ACK, 0, &[0; 8])),
        ("SETTINGS", &[], |_| frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS that change", &[], |n| frame(SETTINGS, 0, 0, &setting(4, 65_535 + n % 2))),
        ("PRIORITY", &[], |n| frame(PRIORITY, 0, nth(n), &[0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE", &[], |_| window_update(0, 1)),
        ("WINDOW_UPDATE of a stream", &opened, |_| window_update(1, 1)),
        ("frames of no known type", &[], |_| frame(0x77, 0, 0, &[0; 16])),
    ];
    for (name, first, unit) in floods {
        assert!(target.flood(name, first, MANY, unit).await, "{name} ends the connection");
    }
}

/// Answers to PING and SETTINGS that nobody reads must not be kept without end (CVE-2019-9512, -9515).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_not_piled_up() {
    let target = Target::start("").await;
    for (name, unit) in [("PING", frame(PING, 0, 0, &[7; 8])), ("SETTINGS", frame(SETTINGS, 0, 0, &[]))] {
        let memory = target.gateway.peak_kib();
        // Its reading end is kept, and nobody reads from it.
        let (_reader, mut writer) = connect(target.gateway.address(), &[]).await;
        let batch = unit.repeat(10_000);
        let sending = async {
            for _ in 0..100 {
                if tokio::time::timeout(Duration::from_secs(1), writer.send(&batch)).await != Ok(true) {
                    break;
                }
            }
        };
        target.while_others_are_served(name, sending).await;
        let grown = target.gateway.peak_kib().saturating_sub(memory);
        assert!(grown < MEMORY_MAX_KIB, "{name}: {grown} KiB");
    }
}

/// Little on the wire, much in memory: a field in the table that is named again and again (RFC 7541 §7.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hpack_bomb() {
    let target = Target::start("").await;
    // 0x40: a new field for the table, which is its first entry from then on.
    let large = [&[0x40][..], &integer(5, 7), b"x-big", &integer(4_000, 7), &[b'x'; 4_000]].concat();
    let first = [head("GET", "/v1/orders"), large].concat();
    let first = frame(HEADERS, END_HEADERS | END_STREAM, 1, &first);
    // 0xbe: the field of the first entry, which is 62 in all.
    let bomb = [head("GET", "/v1/orders"), vec![0xbe; 16_000]].concat();
    let unit = |n| frame(HEADERS, END_HEADERS | END_STREAM, nth(n + 1), &bomb);
    target.flood("HPACK bomb", &first, 1_000, unit).await;
    assert!(target.stage.api.requests() < 200, "{}", target.stage.api.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_bomb() {
    let target = Target::start("").await;
    let before = target.stage.api.requests();
    let many: Vec<u8> = (0..2_000).flat_map(|n| field(&format!("x{n}"), "")).collect();
    let many = [head("GET", "/v1/orders"), many].concat();
    target.flood("many fields", &[], 300, |n| frame(HEADERS, END_HEADERS | END_STREAM, nth(n), &many)).await;
    // Over the limit of a header list, in frames within theirs.
    let large: Vec<u8> = (0..5).flat_map(|n| field(&format!("x{n}"), &"x".repeat(4_000))).collect();
    let unit = |n| {
        let begun = frame(HEADERS, END_STREAM, nth(n), &head("GET", "/v1/orders"));
        let (first, rest) = large.split_at(10_000);
        let rest = frame(CONTINUATION, END_HEADERS, nth(n), rest);
        [begun, frame(CONTINUATION, 0, nth(n), first), rest].concat()
    };
    target.flood("large fields", &[], 300, unit).await;
    // Others were served meanwhile; of the bombs, nothing got through.
    let bombs = target.stage.api.history().iter().filter(|seen| !seen.values("x0").is_empty()).count();
    assert_eq!(bombs, 0, "of {} requests", target.stage.api.requests() - before);
}

/// The limit is announced, and what exceeds it is refused in a way that allows another try (RFC 9113 §8.7).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_and_no_more() {
    let target = Target::start("").await;
    let served = target.stage.api.requests();
    target.stage.api.set_delay(Duration::from_secs(3));
    let (mut reader, mut writer) = connect(target.gateway.address(), &[]).await;
    let settings = reader.find(|f| f.kind == SETTINGS && f.flags == 0).await.unwrap().payload;
    assert!(settings.chunks(6).any(|s| s == setting(3, 100)), "{settings:?}");
    let requests: Vec<u8> = (0..250).flat_map(|n| get(nth(n), "/v1/orders")).collect();
    writer.send(&requests).await;
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < 250 {
        let Some(next) = reader.find(|f| matches!(f.kind, HEADERS | RST_STREAM | GOAWAY)).await else {
            break;
        };
        match next.kind {
            HEADERS => answered += 1,
            RST_STREAM => {
                assert_eq!(next.error(), Some(REFUSED_STREAM), "{next:?}");
                refused += 1;
            }
            _ => break,
        }
    }
    assert!(answered <= 100, "{answered} at once");
    assert!(target.stage.api.requests() - served <= 100, "{}", target.stage.api.requests() - served);
}

/// Bytes that a caller sends while nobody reads them. A byte more than the window breaks RFC 9113 §6.9.1.
#[tokio::test]
async fn callers_may_send_ahead_what_the_windows_say_and_no_more() {
    let limits = "limits: {http2_stream_window: 20KiB, http2_connection_window: 128KiB}\n\
                  timeouts: {expect_continue: 1m}\nreplay: {limit: 1KiB}";
    let (listener, stage) = played(limits).await;
    // The upstream is asked first and does not answer, so bodies wait in their windows.
    let waits = |n| {
        let fields = [head("POST", "/v1/upload"), field("content-length", "1000000")].concat();
        frame(HEADERS, END_HEADERS, nth(n), &fields)
    };
    let fill = |n, bytes: usize| {
        let parts = [16_384.min(bytes), bytes.saturating_sub(16_384)];
        parts
            .iter()
            .filter(|part| **part > 0)
            .flat_map(|part| frame(DATA, 0, nth(n), &vec![0; *part]))
            .collect()
    };
    let full = [vec![20 * 1024; 6], vec![8 * 1024, 1]].concat();
    for streams in [vec![20 * 1024, 1], full] {
        let is_one_streams = streams.len() == 2;
        let (mut reader, mut writer) = connect(stage.address(), &[]).await;
        let settings = reader.find(|f| f.kind == SETTINGS && f.flags == 0).await.unwrap().payload;
        assert!(settings.chunks(6).any(|s| s == setting(4, 20 * 1024)), "{settings:?}");
        let grown = reader.find(|f| f.kind == WINDOW_UPDATE && f.stream == 0).await.unwrap().payload;
        assert_eq!(grown, (128 * 1024 - 65_535u32).to_be_bytes());
        // The window of streams holds from here on.
        writer.send(&frame(SETTINGS, ACK, 0, &[])).await;
        let (over, within) = streams.split_last().unwrap();
        let mut ups = Vec::new();
        for (n, bytes) in (0..).zip(within) {
            writer.send(&waits(n)).await;
            let mut up = Peer::accept(&listener).await;
            assert!(up.head().await.contains("100-continue"));
            ups.push(up);
            let bytes: Vec<u8> = fill(n, *bytes);
            writer.send(&bytes).await;
        }
        writer.send(&frame(PING, 0, 0, b"all fits")).await;
        let next = reader.find(|f| f.kind != SETTINGS).await.unwrap();
        assert_eq!((next.kind, next.flags), (PING, ACK), "{next:?}");
        let last = u32::try_from(within.len()).unwrap() - 1;
        let bytes: Vec<u8> = fill(last, *over);
        writer.send(&bytes).await;
        let end = reader.next().await.unwrap();
        let expected = if is_one_streams { RST_STREAM } else { GOAWAY };
        assert_eq!((end.kind, end.error()), (expected, Some(FLOW_CONTROL_ERROR)), "{streams:?}");
        becomes(&stage, "keybearer_streams_ended_total{listener=\"local\",reason=\"window\"}", 1).await;
    }
}

/// A caller that asks for much and reads nothing holds what its windows allow, and not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_without_a_window() {
    let upstream = downloads().await;
    let route = format!("all: {{upstream: \"http://{upstream}\", profile: account}}");
    let plan = Plan::default().routes(&route).more("workers: 1\ntimeouts: {idle: 1s}");
    let stage = plan.start().await;
    stage.ready().await;
    let gateway = Process::start(&stage, &["--log-filter", "error,keybearer::cli=info"]).await;
    let memory = gateway.peak_kib();
    // No stream may send a byte.
    let (mut reader, mut writer) = connect(gateway.address(), &setting(4, 0)).await;
    let requests: Vec<u8> = (0..100).flat_map(|n| get(nth(n), "/v1/download")).collect();
    writer.send(&requests).await;
    let mut ended = 0;
    while ended < 100 {
        match reader.find(|f| matches!(f.kind, RST_STREAM | GOAWAY)).await {
            Some(frame) if frame.kind == RST_STREAM => ended += 1,
            _ => break,
        }
    }
    let grown = gateway.peak_kib().saturating_sub(memory);
    println!("readers without a window: {grown} KiB");
    // 100 streams with a window's worth each.
    assert!(grown < 2 * MEMORY_MAX_KIB, "{grown} KiB");
}

/// A caller with endless windows that reads nothing: short pieces of answers were queued by the hundred thousand,
/// each with the buffer of 8 KiB that it came in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_pieces_are_not_piled_up_for_a_reader_that_stops() {
    const STREAMS: u32 = 40;
    const PIECES: usize = 500;
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("all: {{upstream: \"http://{}\", profile: account}}", upstream.local_addr().unwrap());
    let stage = Plan::default().routes(&route).more("workers: 1").start().await;
    let gateway = Process::start(&stage, &["--log-filter", "error,keybearer::cli=info"]).await;
    let (mut reader, mut writer) = connect(gateway.address(), &setting(4, 0x7fff_ffff)).await;
    writer.send(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes())).await;
    writer.send(&get(1, "/v1/fill")).await;
    let mut filling = Peer::accept(&upstream).await;
    filling.head().await;
    filling.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(reader.find(|f| f.kind == HEADERS).await.unwrap().has_status(200));
    // From here on nobody reads, and all that lies between the two ends gets full.
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    while tokio::time::timeout(Duration::from_millis(500), filling.try_send(&chunk)).await == Ok(true) {}
    let memory = gateway.peak_kib();
    let mut events = Vec::new();
    for n in 1..=STREAMS {
        writer.send(&get(nth(n), "/v1/events")).await;
        let mut peer = Peer::accept(&upstream).await;
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        events.push(peer);
    }
    for _ in 0..PIECES {
        for peer in &mut events {
            peer.send("1\r\nx\r\n").await;
        }
    }
    // Whoever is served behind them shows that they have been looked at.
    let asking = tokio::spawn(stage.http.get(gateway.url("/v1/last")).send());
    let mut last = Peer::accept(&upstream).await;
    last.head().await;
    last.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
    let grown = gateway.peak_kib().saturating_sub(memory);
    println!("short pieces: {grown} KiB");
    assert!(grown < MEMORY_MAX_KIB, "{grown} KiB");
}

/// Few bytes wait for a caller that makes no room, and no more have come: it is the caller who is waited for.
#[tokio::test]
async fn a_reader_without_a_window_ends_its_stream_also_when_little_waits() {
    let (listener, stage) = played("timeouts: {idle: 300ms}").await;
    let (mut reader, mut writer) = connect(stage.address(), &setting(4, 0)).await;
    writer.send(&get(1, "/v1/events")).await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome").await;
    assert!(reader.find(|f| f.kind == HEADERS).await.unwrap().has_status(200));
    assert!(reader.find(|f| f.kind == RST_STREAM).await.is_some());
}

/// An upstream whose every answer is 10 MiB.
async fn downloads() -> std::net::SocketAddr {
    let router = Router::new().fallback(|| async { vec![b'x'; 10 * 1024 * 1024] });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// An upstream that answers nothing, or below `/begun` only begins to.
async fn half_hearted() -> std::net::SocketAddr {
    let begun = || async {
        let first = stream::once(async { Ok::<_, Infallible>("a part") });
        Body::from_stream(first.chain(stream::pending()))
    };
    let router = Router::new().route("/begun", any(begun)).fallback(std::future::pending::<()>);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Time limits of a listener that the tests below can wait for.
const HASTE: &str = "timeouts: {header_read: 500ms, idle: 2s, body: 500ms, stream: 1s}";

#[tokio::test]
async fn a_connection_that_never_gets_to_a_request_ends() {
    let stage = Plan::default().more(HASTE).start().await;
    stage.ready().await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let beginnings = [
        // Half of the preface.
        PREFACE[..10].to_vec(),
        // Half of a frame's head.
        [PREFACE, &settings[..4]].concat(),
        // A header block that stops.
        [PREFACE, &settings, &frame(HEADERS, END_STREAM, 1, &head("GET", "/v1/orders"))].concat(),
        // Half of a HEADERS frame.
        [PREFACE, &settings, &get(1, "/v1/orders")[..12]].concat(),
    ];
    for (number, beginning) in beginnings.into_iter().enumerate() {
        let (mut reader, mut writer) = connect_raw(stage.address()).await;
        writer.send(&beginning).await;
        let begun = Instant::now();
        reader.end().await;
        assert!(begun.elapsed() < Duration::from_secs(10), "beginning {number}");
    }
    assert_eq!(stage.api.requests(), 0);
}

/// A byte now and then is no progress: the limit of a head is for all of it.
#[tokio::test]
async fn a_head_that_dribbles_over_http_2_ends() {
    let stage = Plan::default().more(HASTE).start().await;
    stage.ready().await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    let request = get(1, "/v1/orders");
    let dribbling = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        for byte in request.chunks(1) {
            ticks.tick().await;
            if !writer.send(byte).await {
                break;
            }
        }
    };
    let begun = Instant::now();
    // Dropping the writer's future half-way loses nothing that matters.
    tokio::select! {
        _ = reader.end() => {}
        () = dribbling => panic!("the whole head was taken"),
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(stage.api.requests(), 0);
}

#[tokio::test]
async fn an_idle_connection_over_http_2_ends_after_its_time() {
    let stage = Plan::default().more(HASTE).start().await;
    stage.ready().await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    writer.send(&get(1, "/v1/orders")).await;
    assert!(reader.find(|f| f.kind == HEADERS).await.unwrap().has_status(200));
    // A farewell without an error, so that the caller knows what was served.
    assert_eq!(reader.end().await, Some(0));
}

#[tokio::test]
async fn a_body_that_stops_over_http_2_ends_its_request() {
    let stage = Plan::default().more(HASTE).start().await;
    stage.ready().await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    writer.send(&[post(1, "/v1/orders"), frame(DATA, 0, 1, b"a part")].concat()).await;
    let end = reader.find(|f| f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM)).await;
    assert!(end.is_some_and(|end| !end.has_status(200)), "the request ends, the connection lives");
    // The connection goes on.
    writer.send(&get(3, "/v1/orders")).await;
    let next = reader.find(|f| f.stream == 3 && matches!(f.kind, HEADERS | RST_STREAM)).await;
    assert!(next.is_some_and(|next| next.has_status(200)));
}

#[tokio::test]
async fn a_body_that_stops_over_http_1_ends_its_request() {
    let stage = Plan::default().more(HASTE).start().await;
    stage.ready().await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send("POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\na part").await;
    let answer = caller.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    eventually("the upload is given up", || stage.api.last().is_none_or(|seen| seen.body_length < 100)).await;
}

/// A caller that stops reading in the middle of an answer gives its place and the upstream's connection back.
#[tokio::test]
async fn a_reader_that_stops_over_http_1_ends() {
    let (listener, stage) = played(HASTE).await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send("GET /v1/download HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let sending = async { while upstream.try_send(&chunk).await {} };
    tokio::time::timeout(PATIENCE, sending).await.expect("the gateway gives the download up");
    drop(caller);
}
